package bootstrap_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/mlxctl/mlxctl/internal/bootstrap"
)

func TestOpenSSHTransport(t *testing.T) {
	t.Parallel()
	n := newNear(t)
	n.options.Transport = bootstrap.TransportOpenSSH
	f := newFar(t, n.key(t, ""))
	n.config(t, fmt.Sprintf("Host *\n IdentityFile %s\n UserKnownHostsFile %s\n", filepath.Join(n.home, ".ssh", "id_ed25519"),
		filepath.Join(n.home, ".ssh", "known_hosts")))
	b := n.open(t)
	h := b.Probe(t.Context(), f.target())
	if h.Key.State != bootstrap.KeyNew || h.Key.Fingerprint != f.host.fingerprint() {
		t.Fatalf("host is %+v", h)
	}
	if err := b.Trust([]*bootstrap.Host{h}); err != nil {
		t.Fatal(err)
	}
	h = one(t, b, f.target())
	job := testJob(t, f, "install")
	r, err := b.Apply(t.Context(), h, job, nil)
	if err != nil || r.Node != "n1" || !r.Changed {
		t.Fatalf("result is %+v, %v", r, err)
	}
	if _, err := os.Stat(filepath.Join(job.Order.Home, "committed")); err != nil {
		t.Error(err)
	}
	if left, _ := filepath.Glob("/tmp/mlxctl-ssh-*/s"); len(left) == 0 {
		t.Error("no connection is shared")
	}
	f.allow(t)
	found := failing(t, b, f.target(), bootstrap.CheckAuth)
	has(t, found.Fix, "ssh-copy-id")
}

func TestOpenSSHRunsAProxyCommand(t *testing.T) {
	t.Parallel()
	n := newNear(t)
	n.options.Transport = bootstrap.TransportOpenSSH
	k := n.key(t, "")
	f, hop := newFar(t, k), newFar(t, k)
	known := filepath.Join(n.home, ".ssh", "known_hosts")
	n.config(t, fmt.Sprintf("Host inner\n HostName 127.0.0.1\n Port %d\n ProxyCommand ssh -F none -i %s -o UserKnownHostsFile=%s -p %d -W %%h:%%p %s@127.0.0.1\n"+
		"Host *\n IdentityFile %s\n User %s\n UserKnownHostsFile %s\n", f.port, k.path, known, hop.port, hop.user, k.path, f.user, known))
	n.knows(t, hop.known())
	inner := bootstrap.Target{Host: "inner"}
	found := failing(t, n.open(t), inner, bootstrap.CheckHostKey)
	has(t, found.Fix, "ssh inner")
	n.knows(t, hop.known(), f.known())
	one(t, n.open(t), inner)
}

func TestUnknownTransport(t *testing.T) {
	t.Parallel()
	if _, err := bootstrap.New(bootstrap.Options{StateDir: t.TempDir(), Transport: "pigeon"}); err == nil {
		t.Error("want an error")
	}
}
