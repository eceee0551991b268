// Package logtail reads a log by lines: its end, and what is added to it. It follows a log through its rotation, which sets
// the file aside under its name with OlderEnd and begins another, and through its truncation.
package logtail
