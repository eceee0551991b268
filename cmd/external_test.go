package cmd

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/mlxctl/mlxctl/internal/bus"
	"github.com/mlxctl/mlxctl/internal/trust"
	"github.com/mlxctl/mlxctl/mlxbridge/enginetest"
)

// TestANatsOfYourOwn forms a cluster over a server that is not in the controller, with one credentials file for all.
func TestANatsOfYourOwn(t *testing.T) {
	t.Parallel()
	enginetest.Environment(t)
	authority, err := trust.Init(filepath.Join(t.TempDir(), "trust"), "elsewhere")
	if err != nil {
		t.Fatal(err)
	}
	tlsConfig, err := authority.ServerTLS(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	token, seed, err := authority.SystemUser()
	if err != nil {
		t.Fatal(err)
	}
	server, err := bus.StartServer(t.Context(), bus.ServerOptions{
		Name: "elsewhere", Addr: "127.0.0.1:0", TLS: tlsConfig, OperatorJWT: authority.OperatorJWT(), Accounts: authority.Accounts(),
		SystemAccount: authority.SystemAccount(), SystemCredentials: bus.Credentials{JWT: token, Seed: seed},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Shutdown(t.Context()); err != nil && t.Context().Err() == nil {
			t.Error(err)
		}
	})
	everything, err := newUser(authority.SignController)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	creds, ca := filepath.Join(dir, "all.creds"), filepath.Join(dir, "ca.pem")
	if err := everything.WriteFile(creds); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(ca, authority.CAPEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	h := newHome(t)
	r := h.run("up", "--local", "--nats-url", server.URL(), "--nats-creds", creds, "--nats-ca", ca, "--nats-server-name", authority.ServerName())
	if r.code != 0 {
		t.Fatalf("up: %+v\n%s", r, h.logs())
	}
	if r := h.run("run", "tiny", countTo(30)); r.out != enginetest.Counted(1, 30) {
		t.Errorf("run: %+v", r)
	}
	// Another machine reaches the same cluster by the same settings, as a context.
	other := newHome(t)
	if r := other.run("context", "add", "office", "--nats-url", server.URL(), "--nats-creds", creds, "--nats-ca", ca,
		"--nats-server-name", authority.ServerName()); r.code != 0 {
		t.Fatalf("context add: %+v", r)
	}
	if r := other.run("context", "use", "office"); r.code != 0 {
		t.Fatalf("context use: %+v", r)
	}
	if r := other.run("run", "tiny", countTo(30)); r.out != enginetest.Counted(1, 30) {
		t.Errorf("run from elsewhere: %+v", r)
	}
	if r := other.run("context", "use", "local"); r.code != 0 {
		t.Fatalf("context use: %+v", r)
	}
	if r := h.run("down"); r.code != 0 {
		t.Errorf("down: %+v", r)
	}
	if r := other.run("run", "--context", "office", "tiny", "x"); r.code != exitUnreachable {
		t.Errorf("run without a controller: %+v", r)
	}
}
