package bus

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
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
	l.Errorf(`10.0.0.2:1 - cid:1 - Read Error: reset`)
	if n := strings.Count(out.String(), "\n"); n != 4 {
		t.Errorf("%d lines:\n%s", n, out.String())
	}
}
