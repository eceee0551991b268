package cluster

import (
	"strings"
	"testing"
)

func TestNearest(t *testing.T) {
	t.Parallel()
	known := []string{"tiny", "small", "mlx-community/Qwen3-8B-4bit", "mlx-community/Qwen3-8B-8bit", "http_addr", "nodes"}
	for name, want := range map[string]string{
		"tinny": "tiny", "tniy": "tiny", "nods": "nodes", "http_adr": "http_addr", "xyz": "", "": "",
		"qwen3-8b":      "mlx-community/Qwen3-8B-4bit mlx-community/Qwen3-8B-8bit",
		"Qwen3-8B-4bit": "mlx-community/Qwen3-8B-4bit mlx-community/Qwen3-8B-8bit",
	} {
		if got := strings.Join(Nearest(name, known), " "); got != want {
			t.Errorf("%q: got %q, want %q", name, got, want)
		}
	}
	if got := len(Nearest("a", []string{"a1", "a2", "a3", "a4"})); got != 3 {
		t.Errorf("%d names, want 3", got)
	}
}
