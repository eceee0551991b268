package cmd

import (
	"encoding/json"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/mlxctl/mlxctl/internal/freeport"
	"github.com/mlxctl/mlxctl/mlxbridge/enginetest"
)

func TestDryRunAloneStartsNothing(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	if r := h.run("up", "--local", "--dry-run", "--name", "lab"); r.code != 0 || !strings.HasPrefix(r.out, "would start cluster lab on this machine alone") {
		t.Errorf("%+v", r)
	}
	if left, err := os.ReadDir(h.dir); err != nil || len(left) > 0 || len(h.processes()) > 0 {
		t.Errorf("it left %v, %v and %v", left, err, h.processes())
	}
}

// What listens everywhere is shown at an address that programs can ask.
func TestDryRunShowsAReachableAddress(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	addr := freeport.Addr(t)
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	r := h.run("up", "--local", "--dry-run", "--http-addr", "0.0.0.0:"+port)
	if r.code != 0 || !strings.Contains(r.out, "http://"+addr+"/v1") {
		t.Errorf("%+v", r)
	}
}

// Settings that are written while services run are in effect after the next `up`, and whoever writes them is told.
func TestSettingsAreTakenOverByUp(t *testing.T) {
	t.Parallel()
	enginetest.Environment(t)
	h := running(t)
	pid := h.pid("controller")
	preview := func() (p localPreview) {
		t.Helper()
		r := h.run("up", "--local", "--dry-run", "-o", "json")
		if err := json.Unmarshal([]byte(r.out), &p); err != nil || r.code != 0 {
			t.Errorf("%+v: %v", r, err)
		}
		return p
	}
	if p := preview(); p.What != whatNothing || p.HTTP != h.up.HTTP || p.Cluster != h.up.Cluster {
		t.Errorf("nothing is to do: %+v", p)
	}
	if r := h.run("up", "--local", "--dry-run"); !strings.HasSuffix(r.out, "is up already; nothing to do\n") {
		t.Errorf("%+v", r)
	}
	if r := h.run("config", "set", "ssh.user", "anna"); r.code != 0 || r.err != "" {
		t.Errorf("a setting that is none of the services: %+v", r)
	}
	if r := h.run("config", "set", "models.idle_ttl", "1m"); r.code != 0 || !strings.Contains(r.err, "`mlxctl up --local`") {
		t.Errorf("nothing says that it is not in effect: %+v", r)
	}
	if p := preview(); p.What != whatRestart || !strings.Contains(p.Reason, "settings") {
		t.Errorf("a restart is to do: %+v", p)
	}
	if now := h.pid("controller"); now != pid {
		t.Error("the preview started the services again")
	}
	if r := h.run("config", "set", "models.idle_ttl", "30m"); r.code != 0 || r.err != "" {
		t.Errorf("taken back: %+v", r)
	}
}

func TestSettingsOfAStoppedClusterNeedNoTakeover(t *testing.T) {
	t.Parallel()
	if r := (invocation{}).run(t, "config", "set", "models.idle_ttl", "1m"); r != (result{}) {
		t.Errorf("%+v", r)
	}
}
