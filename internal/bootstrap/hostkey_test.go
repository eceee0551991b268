package bootstrap_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mlxctl/mlxctl/internal/bootstrap"
)

func TestNewKeyIsAgreedToOnce(t *testing.T) {
	t.Parallel()
	n := newNear(t)
	f := newFar(t, n.key(t, ""))
	write(t, filepath.Join(n.state, "known_hosts"), []byte("# cut in the midd"))
	b := n.open(t)
	bonjour := f.target()
	bonjour.Host, bonjour.Addresses, bonjour.Source = "attic.local", []string{"127.0.0.1"}, bootstrap.SourceBonjour
	hosts := b.Probe(t.Context(), []bootstrap.Target{bonjour, f.target()}, nil)
	if len(hosts) != 1 || hosts[0].Key.State != bootstrap.KeyNew || hosts[0].Key.Fingerprint != f.host.fingerprint() {
		t.Fatalf("found %+v", hosts)
	}
	if hosts[0].Failed() || hosts[0].Ready() || hosts[0].Facts.OS != "" {
		t.Errorf("host is %+v, want one that waits", hosts[0])
	}
	if log := f.log.String(); strings.Contains(log, "Accepted") || strings.Contains(log, "Failed") {
		t.Errorf("somebody authenticated before the key was agreed to: %s", log)
	}
	if err := b.Trust(hosts); err != nil {
		t.Fatal(err)
	}
	again := n.open(t)
	for _, target := range hosts[0].Targets() {
		if h := one(t, again, target); h.Key.State != bootstrap.KeyKnown {
			t.Errorf("%s is %+v", target.Host, h.Key)
		}
	}
	if info, err := os.Stat(filepath.Join(n.state, "known_hosts")); err != nil || info.Mode().Perm()&0o077 != 0 {
		t.Errorf("own file is %v, %v", info.Mode(), err)
	}
	if _, err := os.Stat(filepath.Join(n.home, ".ssh", "known_hosts")); err == nil {
		t.Error("the operator's own file was written")
	}
}

func TestChangedKeyIsAHardStop(t *testing.T) {
	t.Parallel()
	for _, transport := range []string{bootstrap.TransportLibrary, bootstrap.TransportOpenSSH} {
		t.Run(transport, func(t *testing.T) {
			t.Parallel()
			n := newNear(t)
			f, old := newFar(t, n.key(t, "")), newFar(t)
			old.port = f.port
			n.knows(t, []byte("# first line\n"), old.known())
			n.options.Transport = transport
			b := n.open(t)
			found := failing(t, b, f.target(), bootstrap.CheckHostKey)
			path := filepath.Join(n.home, ".ssh", "known_hosts")
			has(t, found.Message, path+":2", f.host.fingerprint(), old.host.fingerprint())
			has(t, found.Fix, fmt.Sprintf("ssh-keygen -R '[127.0.0.1]:%d' -f '%s'", f.port, path))
			h := b.Probe(t.Context(), []bootstrap.Target{f.target()}, nil)[0]
			if h.Key.State != bootstrap.KeyChanged || strings.Contains(f.log.String(), "Accepted") {
				t.Errorf("key is %+v", h.Key)
			}
			if err := b.Trust([]*bootstrap.Host{h}); err != nil {
				t.Fatal(err)
			}
			failing(t, b, f.target(), bootstrap.CheckHostKey)
			if _, err := b.Apply(t.Context(), h, bootstrap.Job{}, nil); err == nil {
				t.Error("a host with a changed key was applied to")
			}
		})
	}
}

func TestKeyOfAnotherKindIsAChangedKey(t *testing.T) {
	t.Parallel()
	n := newNear(t)
	f := newFar(t, n.key(t, ""))
	rsa := "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBEmKSENjQEezOmxkZMy7opKgwFB9nkt5YRrYMjNuG5N87uRgg6CLrbo5wAdT/y6v0mKV0U2w0WZ2YB/++Tpockg="
	n.knows(t, fmt.Appendf(nil, "[127.0.0.1]:%d %s\n", f.port, rsa))
	failing(t, n.open(t), f.target(), bootstrap.CheckHostKey)
}

func TestAddressOfAnotherHostYesterdayIsNoAlarm(t *testing.T) {
	t.Parallel()
	n := newNear(t)
	f, old := newFar(t, n.key(t, "")), newFar(t)
	old.port = f.port
	n.knows(t, old.known(), f.known("attic.invalid"))
	target := f.target()
	target.Host, target.Addresses = "attic.invalid", []string{"127.0.0.1"}
	one(t, n.open(t), target)
}

// Whoever is on the network can tell of any name and any address. Neither makes a key known that the operator agreed to for
// a host that was not meant.
func TestAdvertsChooseNoneOfTheKnownHosts(t *testing.T) {
	t.Parallel()
	for _, transport := range []string{bootstrap.TransportLibrary, bootstrap.TransportOpenSSH} {
		t.Run(transport, func(t *testing.T) {
			t.Parallel()
			n := newNear(t)
			f := newFar(t, n.key(t, ""))
			n.config(t, "Host prod*\n  HostName 127.0.0.1\n  HostKeyAlias prod-db\n")
			n.knows(t, f.known(), f.known("prod-db.example.com"), f.known("prod-db"))
			n.options.Transport = transport
			b := n.open(t)
			for _, name := range []string{"prod-db.example.com", "prod-db", "prod", "127.0.0.1", ""} {
				target := f.target()
				target.Host, target.Addresses, target.Source = name, []string{"127.0.0.1"}, bootstrap.SourceBonjour
				failing(t, b, target, bootstrap.CheckConfig)
			}
			for _, name := range []string{"x.local", "prod.local"} {
				target := f.target()
				target.Host, target.Addresses, target.Source = name, []string{"127.0.0.1"}, bootstrap.SourceBonjour
				h := b.Probe(t.Context(), []bootstrap.Target{target}, nil)[0]
				if h.Key.State != bootstrap.KeyNew || h.Ready() || h.Failed() {
					t.Errorf("%s is %+v with %+v, want a host that waits", name, h.Key, h.Findings)
				}
			}
			if log := f.log.String(); strings.Contains(log, "Accepted") {
				t.Errorf("somebody authenticated on the word of an advert: %s", log)
			}
		})
	}
}
