// Package gateway is the HTTP door: it checks the key, reads a body in the dialect of its path, gives the request to
// the one dispatch and streams the answer back. What a body and an answer look like is the business of the dialects
// beside it; keys, limits, statuses, keep-alives and the end of clients are the same for all of them.
package gateway
