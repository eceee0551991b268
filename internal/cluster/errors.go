package cluster

import (
	"context"
	"errors"
	"fmt"
	"strconv"
)

// Code sorts errors by what the caller can do about them. Each dialect maps codes to HTTP statuses, and the CLI maps
// them to exit codes; nothing matches on messages.
type Code string

// Codes that cross process borders.
const (
	CodeInvalid       Code = "invalid_request"  // the request is wrong; Field names where
	CodeTooLarge      Code = "too_large"        // above a size limit that the message names
	CodeContext       Code = "context_exceeded" // prompt and answer do not fit the model's context
	CodeUnauthorized  Code = "unauthorized"
	CodeNoModel       Code = "model_not_found"
	CodeBadModel      Code = "model_invalid" // the folder is there, but it cannot be loaded
	CodeNoFit         Code = "model_too_big" // no node has the memory, even when empty
	CodeNoNode        Code = "no_node"       // no node is ready, or no such node
	CodeBusy          Code = "busy"          // everything that could serve it is full; try again
	CodeNodeLost      Code = "node_lost"     // the node went away after the answer began
	CodeWorkerCrashed Code = "worker_crashed"
	CodeQuarantined   Code = "model_quarantined" // its worker died too often on that node
	CodeTimeout       Code = "timeout"           // a deadline passed; the message names which
	CodeCancelled     Code = "cancelled"         // the client went away
	CodeUnsupported   Code = "unsupported"       // understood, but this model or build cannot do it
	CodeUnreachable   Code = "unreachable"       // no controller there
	CodeConflict      Code = "conflict"          // the state forbids it now
	CodeInternal      Code = "internal"
)

// Error is an error that crosses process borders. Message is one lower-case line without a final dot that says what
// and where; Hint says what to do, or is empty.
type Error struct {
	Code    Code   `json:"code"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
	Field   string `json:"field,omitempty"` // of CodeInvalid
	Node    NodeID `json:"node,omitempty"`
}

func (e *Error) Error() string { return e.Message }

// Is makes errors.Is match on the code alone, so that callers can compare with &Error{Code: …}.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code && (t.Message == "" || t.Message == e.Message)
}

// Retryable says whether the same request may succeed on another node, or later, unchanged.
func (e *Error) Retryable() bool {
	switch e.Code {
	case CodeBusy, CodeNodeLost, CodeWorkerCrashed, CodeQuarantined, CodeUnreachable:
		return true
	default:
		return false
	}
}

// Errorf makes an Error with a formatted message.
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// WithHint returns a copy of e that says what to do.
func (e *Error) WithHint(format string, args ...any) *Error {
	c := *e
	c.Hint = fmt.Sprintf(format, args...)
	return &c
}

// Invalid makes the error of one wrong field: Invalid("top_k", "must be 0 or more").
func Invalid(field, claim string) *Error {
	return &Error{Code: CodeInvalid, Field: field, Message: field + " " + claim}
}

// AsError returns the *Error inside err. A bare context error becomes CodeCancelled or CodeTimeout, anything else
// CodeInternal; nil stays nil.
func AsError(err error) *Error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	code := CodeInternal
	switch {
	case errors.Is(err, context.Canceled):
		code = CodeCancelled
	case errors.Is(err, context.DeadlineExceeded):
		code = CodeTimeout
	}
	return &Error{Code: code, Message: err.Error()}
}

// CodeOf returns the code of err; empty for nil.
func CodeOf(err error) Code {
	if e := AsError(err); e != nil {
		return e.Code
	}
	return ""
}

func indexed(list string, i int, field string) string {
	s := list + "[" + strconv.Itoa(i) + "]"
	if field != "" {
		s += "." + field
	}
	return s
}

func quote(s string) string {
	const most = 40
	if len(s) > most {
		s = s[:most] + "…"
	}
	return strconv.Quote(s)
}

func number(f float64) string { return strconv.FormatFloat(f, 'g', -1, 64) }
