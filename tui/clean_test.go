package tui

import (
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode"

	tea "charm.land/bubbletea/v2"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/tui/chart"
)

func TestCleanText(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, in, want, ascii string }{
		{"plain", "mini-rack-1", "mini-rack-1", "mini-rack-1"},
		{"colour", "a\x1b[31mred\x1b[0m", "ared", "ared"},
		{"title of the window", "a\x1b]0;owned\x07b", "ab", "ab"},
		{"clipboard", "a\x1b]52;c;ZXZpbA==\x1b\\b", "ab", "ab"},
		{"device control", "a\x1bPq#0\x1b\\b", "ab", "ab"},
		{"unfinished sequence", "a\x1b]0;owned", "a", "a"},
		{"eight-bit control", "a\u009b31mb", "a31mb", "a31mb"}, // harmless without its first character
		{"raw eight-bit byte", "a\x9bb", "a\uFFFDb", "a?b"},
		{"cursor and bell", "a\rb\x08c\x07d", "a bcd", "a bcd"},
		{"lines", "a\nb\tc\u2028d", "a b c d", "a b c d"},
		{"direction", "a\u202eb\u2066c", "abc", "abc"},
		{"zero width", "a\u200bb\u200dc\ufeffd", "abcd", "abcd"},
		{"delete", "a\x7fb", "ab", "ab"},
		{"marks", "e\u0301\u0302\u0303\u0304\u0305x", "e\u0301\u0302x", "ex"},
		{"variation and skin tone", "❤\ufe0f👍\U0001f3fd", "❤👍", "??"},
		{"other scripts", "世界 Ünïcode", "世界 Ünïcode", "?? ?n?code"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := (cleaner{}).text(tt.in); got != tt.want {
				t.Errorf("text(%q) = %q, want %q", tt.in, got, tt.want)
			}
			if got := (cleaner{plain: true}).text(tt.in); got != tt.ascii {
				t.Errorf("plain text(%q) = %q, want %q", tt.in, got, tt.ascii)
			}
		})
	}
}

// TestEveryStringIsCleaned fills every string of a Snapshot and an Event, whatever their names, and finds none of it.
func TestEveryStringIsCleaned(t *testing.T) {
	t.Parallel()
	var s cluster.Snapshot
	var e cluster.Event
	poison(reflect.ValueOf(&s).Elem())
	poison(reflect.ValueOf(&e).Elem())
	found := findPoison(reflect.ValueOf(*cleaner{}.snapshot(&s)), "snapshot")
	found = append(found, findPoison(reflect.ValueOf(cleaner{}.event(e)), "event")...)
	for _, f := range found {
		t.Errorf("%s is not cleaned", f)
	}
	if len(findPoison(reflect.ValueOf(s), "snapshot")) < 20 {
		t.Error("the snapshot itself was changed, or the test fills too little")
	}
}

func poison(v reflect.Value) {
	switch v.Kind() {
	case reflect.String:
		v.SetString("a\x1b[2Jb")
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		poison(v.Elem())
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range v.Len() {
			poison(v.Index(i))
		}
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			return
		}
		for _, field := range v.Fields() {
			poison(field)
		}
	default:
	}
}

func findPoison(v reflect.Value, path string) []string {
	var out []string
	switch v.Kind() {
	case reflect.String:
		if strings.ContainsRune(v.String(), '\x1b') {
			out = append(out, path)
		}
	case reflect.Pointer:
		if !v.IsNil() {
			out = findPoison(v.Elem(), path)
		}
	case reflect.Slice:
		for i := range v.Len() {
			out = append(out, findPoison(v.Index(i), path+"[]")...)
		}
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			return nil
		}
		for i := range v.NumField() {
			out = append(out, findPoison(v.Field(i), path+"."+v.Type().Field(i).Name)...)
		}
	default:
	}
	return out
}

// TestHostileNamesReachNoScreen draws hostile names and errors everywhere they can show: panes, detail, footer, title.
func TestHostileNamesReachNoScreen(t *testing.T) {
	t.Parallel()
	const evil = "x\x1b]0;owned\x07\x1b[2J\u202e\u009b1m\ny"
	snap := &cluster.Snapshot{
		At: time.Unix(1_800_000_000, 0), Cluster: evil,
		Nodes: []cluster.Node{{
			ID: "n\x1b[2J", Name: evil, State: cluster.NodeDown, Reason: evil, Hardware: cluster.Hardware{Chip: evil},
			Models:   []cluster.Model{{Name: evil, Digest: evil}},
			Replicas: []cluster.Replica{{Model: evil, State: cluster.ReplicaFailed, Reason: evil}},
		}},
		Requests: []cluster.RequestStatus{{ID: evil, Model: evil, Node: "n\x1b[2J", State: "odd\x1b[2J"}},
	}
	s := newScreenTest(t, chart.Braille, 160, 40)
	s.snapshot(snap, cluster.Event{Kind: evil, Message: evil})
	frames := []string{s.content(), s.View().WindowTitle}
	s.keys("j", "enter")
	frames = append(frames, s.content())
	s.send(updateMsg{update{err: cluster.Errorf(cluster.CodeUnreachable, "%s", evil).WithHint("%s", evil)}, s.clock})
	frames = append(frames, s.content())
	s.keys("esc", "/")
	s.send(tea.PasteMsg{Content: evil})
	frames = append(frames, s.content())
	for i, f := range frames {
		for _, bad := range []string{"\x1b]", "\x1b[2J", "\x07", "\u202e", "\u009b"} {
			if strings.Contains(f, bad) {
				t.Errorf("frame %d holds %q", i, bad)
			}
		}
		if strings.ContainsFunc(f, func(r rune) bool { return unicode.IsControl(r) && r != '\n' && r != '\x1b' }) {
			t.Errorf("frame %d holds control characters", i)
		}
	}
}
