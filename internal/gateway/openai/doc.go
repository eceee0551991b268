// Package openai is OpenAI's HTTP dialect: it reads bodies of chat completions and completions into a cluster.Request
// and renders answers, models and errors in OpenAI's shapes. It does no I/O; the gateway does.
package openai
