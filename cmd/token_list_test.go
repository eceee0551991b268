package cmd

import (
	"strings"
	"testing"
	"time"

	"github.com/mlxctl/mlxctl/internal/roster"
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

// identity makes a home with a cluster's identity, and nothing that runs.
func identity(t *testing.T) (home string, a *trust.Authority) {
	t.Helper()
	home = t.TempDir()
	if err := (&localSettings{Name: "lab", NATSAddr: "0.0.0.0:8660"}).write(home); err != nil {
		t.Fatal(err)
	}
	a, err := trust.Init(trustDir(home), "lab")
	if err != nil {
		t.Fatal(err)
	}
	return home, a
}

func TestATokenNamesTheNodeThatUsedIt(t *testing.T) {
	t.Parallel()
	home, a := identity(t)
	k, _, err := a.CreateToken(time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.UseToken(k.ID, "n-mini", "UKEY", time.Now()); err != nil {
		t.Fatal(err)
	}
	list := func(args ...string) string {
		t.Helper()
		r := invocation{env: map[string]string{"MLXCTL_HOME": home}}.run(t, append([]string{"token", "list"}, args...)...)
		if r.code != 0 {
			t.Errorf("%+v", r)
		}
		return r.out
	}
	if got := list(); !strings.Contains(got, " n-mini\n") {
		t.Errorf("a node that is none any more: %s", got)
	}
	if err := roster.Open(rosterPath(home)).Put(roster.Node{ID: "n-mini", Name: "mini", By: "token"}); err != nil {
		t.Fatal(err)
	}
	if got := list(); !strings.Contains(got, " mini\n") {
		t.Errorf("%s", got)
	}
	if got := list("-o", "json"); !strings.Contains(got, `"node_name": "mini"`) || !strings.Contains(got, `"n-mini"`) {
		t.Errorf("%s", got)
	}
}

func TestATokenThatIsNotThere(t *testing.T) {
	t.Parallel()
	home, _ := identity(t)
	r := invocation{env: map[string]string{"MLXCTL_HOME": home}}.run(t, "token", "rm", "zzz")
	if r.code != exitNoSuch || !strings.Contains(r.err, "no join token zzz") || !strings.Contains(r.err, "hint: `mlxctl token list`") {
		t.Errorf("%+v", r)
	}
}
