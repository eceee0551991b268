package cmd

import (
	"strings"
	"testing"
	"time"

	"github.com/mlxctl/mlxctl/internal/trust"
)

func TestTimeLeftIsRoundedUp(t *testing.T) {
	t.Parallel()
	for want, d := range map[string]time.Duration{
		"5m": 5*time.Minute - time.Millisecond, "15m": 15 * time.Minute, "1h": time.Hour - time.Second, "2h": time.Hour + time.Second,
		"30s": 30*time.Second - 1, "1m": time.Minute - 1, "1s": 1, "24h": 24*time.Hour - time.Minute,
	} {
		if got := timeLeft(d); got != want {
			t.Errorf("%v: %s, want %s", d, got, want)
		}
	}
}

func TestATokenThatIsNotThere(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	if err := (&localSettings{Name: "lab", NATSAddr: "0.0.0.0:8660"}).write(home); err != nil {
		t.Fatal(err)
	}
	if _, err := trust.Init(trustDir(home), "lab"); err != nil {
		t.Fatal(err)
	}
	r := invocation{env: map[string]string{"MLXCTL_HOME": home}}.run(t, "token", "rm", "zzz")
	if r.code != exitNoSuch || !strings.Contains(r.err, "no join token zzz") || !strings.Contains(r.err, "hint: `mlxctl token list`") {
		t.Errorf("%+v", r)
	}
}
