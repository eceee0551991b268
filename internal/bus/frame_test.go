package bus_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/mlxctl/mlxctl/internal/bus"
	"github.com/mlxctl/mlxctl/internal/cluster"
)

func FuzzDecodeFrame(f *testing.F) {
	for _, seed := range []string{
		"1 d 7\n{\"text\":\"a\"}", "1 open 256 abc\n{}", "1 ack 18446744073709551615\n", "2 d 1\n", "1 d\n", "1  1\n", "", "\n", "1 d -1\n",
		"1 open 1 a.b\n", "1 d 1 a b\n", strings.Repeat("1", 200) + "\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		kind, n, id, body, err := bus.DecodeFrame(data)
		if err != nil {
			if c := cluster.CodeOf(err); c != cluster.CodeInvalid && c != cluster.CodeUnsupported {
				t.Errorf("error %v has code %s", err, c)
			}
			return
		}
		again := bus.EncodeFrame(kind, n, id, body)
		kind2, n2, id2, body2, err := bus.DecodeFrame(again)
		if err != nil || kind2 != kind || n2 != n || id2 != id || !bytes.Equal(body2, body) {
			t.Errorf("%q was read as %q %d %q %q, then as %q %d %q %q, %v", data, kind, n, id, body, kind2, n2, id2, body2, err)
		}
		if strings.ContainsAny(id, ".*> ") {
			t.Errorf("id %q would be more than one token of a subject", id)
		}
	})
}

func TestMayReply(t *testing.T) {
	t.Parallel()
	tests := []struct {
		subject, reply string
		want           bool
	}{
		{"mlx.cmd.n1.infer", "mlx.r.n1.a", true},
		{"mlx.cmd.n1.infer", "mlx.r.n2.a", false},
		{"mlx.cmd.n1.infer", "mlx.r.n1", false},
		{"mlx.cmd.n1.infer", "mlx.r.n1.*", false},
		{"mlx.cmd.n1.infer", "", false},
		{"mlx.api.info", "mlx.c.c1.q.1", true},
		{"mlx.api.info", "_INBOX_x.1", true},
		{"mlx.api.info", "mlx.cmd.n1.unload", false},
		{"mlx.api.info", "mlx.all.hello", false},
		{"mlx.api.info", "mlx.r.n1.a", false},
		{"mlx.all.hello", "$SYS.x", false},
	}
	for _, tt := range tests {
		if got := bus.MayReply(tt.subject, tt.reply); got != tt.want {
			t.Errorf("MayReply(%q, %q) = %v, want %v", tt.subject, tt.reply, got, tt.want)
		}
	}
}
