package printer

import (
	"io"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// Error says what went wrong in a command (empty for the program itself): one line, and one more with what to do. As
// JSON it is one object on one line.
func Error(w io.Writer, format Format, command string, err error) error {
	e := cluster.AsError(err)
	message := OneLine(err.Error())
	if format == JSON || format == YAML {
		body := *e
		body.Message = message
		return Line(w, struct {
			Error cluster.Error `json:"error"`
		}{body})
	}
	out := "mlxctl: "
	if command != "" {
		out += command + ": "
	}
	out += message + "\n"
	if e.Hint != "" {
		out += "hint: " + OneLine(e.Hint) + "\n"
	}
	return write(w, out)
}
