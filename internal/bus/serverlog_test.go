package bus

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/mlxctl/mlxctl/internal/flood"
)

// A client that is refused again and again is logged once; another client, and what is no refusal, are logged as well.
func TestRefusalsAreLoggedOnce(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	l := &serverLog{log: slog.New(slog.NewTextHandler(&out, nil))}
	for cid := range 50 {
		l.Errorf(`10.0.0.2:%d - cid:%d - authentication error - Nkey "UA"`, 40000+cid, cid)
		l.Errorf(`10.0.0.3:%d - cid:%d - "v1.52.0:go" - authentication error - Nkey "UB"`, 40000+cid, cid)
	}
	l.Errorf(`10.0.0.2:1 - cid:1 - Read Error: reset`)
	l.Errorf(`10.0.0.3:1 - cid:1 - Read Error: reset`)
	if n := strings.Count(out.String(), "\n"); n != 4 {
		t.Errorf("%d lines:\n%s", n, out.String())
	}
}

// What one client does wrong again and again is a line a second, with how often it came in between.
func TestMisdeedsAreCounted(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	l := &serverLog{log: slog.New(slog.NewTextHandler(&out, nil))}
	began := time.Now()
	for cid := range 1000 {
		l.Errorf(`10.0.0.66:%d - cid:%d - TLS handshake error: EOF`, 1000+cid, cid)
		l.Errorf(`10.0.0.2:4000 - cid:7 - "v1.52.0:go" - "agent" - Publish Violation - Nkey "UA", Subject "mlx.x.%d"`, cid)
	}
	most := 2 + 2*int(time.Since(began)/flood.ComplainEvery)
	if n := strings.Count(out.String(), "\n"); n < 2 || n > most {
		t.Errorf("%d lines, of at most %d:\n%s", n, most, out.String())
	}
}
