package printer

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/iostreams"
)

type fruit struct {
	Name  string `json:"name"`
	Count int    `json:"count"`
	Note  string `json:"note,omitempty"`
	Tags  []int  `json:"tags"`
}

func fruits() List[fruit] {
	return List[fruit]{
		Name: func(f fruit) string { return f.Name },
		Columns: []Column[fruit]{
			{Header: "NAME", Value: func(f fruit) string { return f.Name }},
			{Header: "COUNT", Right: true, Value: func(f fruit) string { return fmt.Sprint(f.Count) }},
			{Header: "NOTE", Wide: true, Value: func(f fruit) string { return f.Note }},
		},
		Empty: "no fruit; plant a tree",
	}
}

func TestList(t *testing.T) {
	t.Parallel()
	items := []fruit{{Name: "äpple", Count: 3, Note: "on", Tags: []int{1}}, {Name: "fig", Count: 12345, Note: "a\x1b[31m<b>"}}
	for _, c := range []struct {
		name     string
		opts     Options
		items    []fruit
		out, err string
	}{
		{"table", Options{Format: Table}, items, "NAME    COUNT\näpple       3\nfig     12345\n", ""},
		{"no headers", Options{Format: Table, NoHeaders: true}, items, "äpple       3\nfig     12345\n", ""},
		{"wide", Options{Format: Wide}, items, "NAME    COUNT   NOTE\näpple       3   on\nfig     12345   a?[31m<b>\n", ""},
		{"name", Options{Format: Name}, items, "äpple\nfig\n", ""},
		{"json", Options{Format: JSON}, items[:1], `{
  "items": [
    {
      "name": "äpple",
      "count": 3,
      "note": "on",
      "tags": [
        1
      ]
    }
  ]
}
`, ""},
		{"yaml", Options{Format: YAML}, items, "items:\n  - name: äpple\n    count: 3\n    note: on\n    tags:\n      - 1\n  - name: fig\n    count: 12345\n    note: \"a\\e[31m<b>\"\n    tags: null\n", ""},
		{"empty table", Options{Format: Table}, nil, "", "no fruit; plant a tree\n"},
		{"empty json", Options{Format: JSON}, nil, "{\n  \"items\": []\n}\n", ""},
		{"empty yaml", Options{Format: YAML}, nil, "items: []\n", ""},
		{"empty names", Options{Format: Name}, nil, "", ""},
	} {
		s, _, out, errOut := iostreams.Test()
		if err := fruits().Print(s, c.opts, c.items); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if diff := cmp.Diff([2]string{c.out, c.err}, [2]string{out.String(), errOut.String()}); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
	}
}

func TestError(t *testing.T) {
	t.Parallel()
	typed := cluster.Errorf(cluster.CodeNoFit, "no room\nfor it").WithHint("buy %d GiB", 2)
	for _, c := range []struct {
		format  Format
		command string
		err     error
		want    string
	}{
		{Table, "", typed, "mlxctl: no room for it\nhint: buy 2 GiB\n"},
		{Table, "run", typed, "mlxctl: run: no room for it\nhint: buy 2 GiB\n"},
		{Table, "", errors.New("plain \x1b[2J"), "mlxctl: plain ?[2J\n"},
		{JSON, "run", fmt.Errorf("run: %w", typed), `{"error":{"code":"model_too_big","message":"run: no room for it","hint":"buy 2 GiB"}}` + "\n"},
		{JSON, "", errors.New("plain"), `{"error":{"code":"internal","message":"plain"}}` + "\n"},
	} {
		var b bytes.Buffer
		if err := Error(&b, c.format, c.command, c.err); err != nil {
			t.Fatal(err)
		}
		if b.String() != c.want {
			t.Errorf("got %q, want %q", b.String(), c.want)
		}
	}
}

func TestHuman(t *testing.T) {
	t.Parallel()
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1613496: "1.5 MiB", 24 << 30: "24.0 GiB", 500 << 30: "500 GiB", math.MaxInt64: "8192 PiB"} {
		if got := Bytes(n); got != want {
			t.Errorf("Bytes(%d) = %q, want %q", n, got, want)
		}
	}
	for d, want := range map[time.Duration]string{-1: "0s", 59e9: "59s", 60e9: "1m", 3 * time.Hour: "3h", 50 * time.Hour: "2d"} {
		if got := Age(d); got != want {
			t.Errorf("Age(%v) = %q, want %q", d, got, want)
		}
	}
	for r, want := range map[float64]string{0: "0.0", 99.94: "99.9", 1234.5: "1234"} {
		if got := Rate(r); got != want {
			t.Errorf("Rate(%v) = %q, want %q", r, got, want)
		}
	}
}
