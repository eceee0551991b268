// Package printer shows results in the formats that every command shares: table, wide, json, yaml and name. JSON is
// the shape that counts, YAML is the same shape, and tables are for people.
package printer

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/mlxctl/mlxctl/internal/iostreams"
	"github.com/mlxctl/mlxctl/internal/untrusted"
)

// Format is a way to show a result.
type Format string

// Formats. Name prints bare identifiers, one a line.
const (
	Table Format = "table"
	Wide  Format = "wide"
	JSON  Format = "json"
	YAML  Format = "yaml"
	Name  Format = "name"
)

// Options say how to print.
type Options struct {
	Format    Format
	NoHeaders bool
}

// Column is one column of a table.
type Column[T any] struct {
	Header string
	Wide   bool // only in wide tables
	Right  bool // numbers
	Value  func(T) string
}

// List prints items of one kind.
type List[T any] struct {
	Columns []Column[T]
	Name    func(T) string
	// Empty is said on stderr when a table would have no rows.
	Empty string
}

// Print shows items; JSON and YAML wrap them in {"items": […]}.
func (l List[T]) Print(s *iostreams.IOStreams, opts Options, items []T) error {
	switch opts.Format {
	case JSON, YAML:
		if items == nil {
			items = []T{}
		}
		return Object(s.Out, opts.Format, struct {
			Items []T `json:"items"`
		}{items})
	case Name:
		var b strings.Builder
		for _, item := range items {
			b.WriteString(l.Name(item) + "\n")
		}
		return write(s.Out, b.String())
	case Table, Wide:
	}
	if len(items) == 0 {
		return write(s.Err, l.Empty+"\n")
	}
	return write(s.Out, l.table(opts, items))
}

func (l List[T]) table(opts Options, items []T) string {
	var columns []Column[T]
	for _, c := range l.Columns {
		if !c.Wide || opts.Format == Wide {
			columns = append(columns, c)
		}
	}
	var rows [][]string
	if !opts.NoHeaders {
		var headers []string
		for _, c := range columns {
			headers = append(headers, c.Header)
		}
		rows = append(rows, headers)
	}
	for _, item := range items {
		var row []string
		for _, c := range columns {
			v := c.Value(item)
			if v == "" {
				v = "-"
			}
			row = append(row, Clean(v))
		}
		rows = append(rows, row)
	}
	return align(rows, func(i int) bool { return columns[i].Right })
}

// align lays rows out with three spaces between columns and nothing after the last.
func align(rows [][]string, right func(int) bool) string {
	var widths []int
	for _, row := range rows {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], len([]rune(cell)))
		}
	}
	var b strings.Builder
	for _, row := range rows {
		var line strings.Builder
		for i, cell := range row {
			if i > 0 {
				line.WriteString("   ")
			}
			pad := strings.Repeat(" ", widths[i]-len([]rune(cell)))
			if right(i) {
				line.WriteString(pad + cell)
			} else {
				line.WriteString(cell + pad)
			}
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
	return b.String()
}

// Pairs lays out keys and values in two columns.
func Pairs(w io.Writer, pairs [][2]string) error {
	var rows [][]string
	for _, p := range pairs {
		rows = append(rows, []string{p[0], Clean(p[1])})
	}
	return write(w, align(rows, func(int) bool { return false }))
}

// Object prints one value as JSON (indented) or YAML of the same shape.
func Object(w io.Writer, format Format, value any) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(value); err != nil {
		return fmt.Errorf("encode result: %w", err)
	}
	if format != YAML {
		return write(w, b.String())
	}
	// JSON is YAML: reading it as such keeps the names and the order of the JSON shape.
	var node yaml.Node
	if err := yaml.Unmarshal(b.Bytes(), &node); err != nil {
		return fmt.Errorf("encode result: %w", err)
	}
	plain(&node)
	out, err := marshalYAML(&node)
	if err != nil {
		return fmt.Errorf("encode result: %w", err)
	}
	return write(w, out)
}

// Line prints one value as one line of JSON.
func Line(w io.Writer, value any) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(value); err != nil {
		return fmt.Errorf("encode result: %w", err)
	}
	return write(w, b.String())
}

func marshalYAML(node *yaml.Node) (string, error) {
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := enc.Encode(node); err != nil {
		return "", err
	}
	return b.String(), nil
}

// plain takes JSON's quotes and braces off; the encoder puts back those that YAML needs.
func plain(node *yaml.Node) {
	node.Style = 0
	if node.Kind == yaml.ScalarNode && node.Tag == "!!str" {
		node.SetString(node.Value)
	}
	if len(node.Content) == 0 && (node.Kind == yaml.SequenceNode || node.Kind == yaml.MappingNode) {
		node.Style = yaml.FlowStyle
	}
	for _, c := range node.Content {
		plain(c)
	}
}

// Clean marks what is not seen in text that came from elsewhere, so that it cannot drive the terminal or hide what it says.
func Clean(s string) string { return untrusted.Marked(s) }

// OneLine is Clean for text that may have several lines, or spaces to spare.
func OneLine(s string) string { return Clean(strings.Join(strings.Fields(s), " ")) }

func write(w io.Writer, s string) error {
	_, err := io.WriteString(w, s)
	return err
}
