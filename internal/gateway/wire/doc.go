// Package wire reads and writes the JSON of the HTTP dialects: bodies field by field, strictly and with errors that
// name the field, and answers by appending to a buffer. It knows no dialect.
package wire
