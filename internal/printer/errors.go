package printer

import (
	"io"
	"strings"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// Error says what went wrong in a command (empty for the program itself): one line, and one more with what to do. As
// JSON it is one object on one line.
func Error(w io.Writer, format Format, command string, err error) error {
	e := cluster.AsError(err)
	message := oneLine(err.Error())
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
		out += "hint: " + oneLine(e.Hint) + "\n"
	}
	return write(w, out)
}

func oneLine(s string) string {
	return Clean(strings.Join(strings.Fields(s), " "))
}
