package bootstrap_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mlxctl/mlxctl/internal/bootstrap"
	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
)

func TestNewKeyIsAgreedToOnce(t *testing.T) {
	t.Parallel()
	n := newNear(t)
	f := newFar(t, n.key(t, ""))
	write(t, filepath.Join(n.state, "known_hosts"), []byte("# cut in the midd"))
	b := n.open(t)
	bonjour := f.target()
	bonjour.Host, bonjour.Addresses, bonjour.Source = "attic.local", []string{"127.0.0.1"}, bootstrap.SourceBonjour
	hosts := []*bootstrap.Host{b.Probe(t.Context(), bonjour), b.Probe(t.Context(), f.target())}
	for _, h := range hosts {
		if h.Key.State != bootstrap.KeyNew || h.Key.Fingerprint != f.host.fingerprint() {
			t.Fatalf("found %+v", h)
		}
		if h.Failure() != nil || h.Ready() || h.Facts.OS != "" {
			t.Errorf("host is %+v, want one that waits", h)
		}
	}
	if log := f.log.String(); strings.Contains(log, "Accepted") || strings.Contains(log, "Failed") {
		t.Errorf("somebody authenticated before the key was agreed to: %s", log)
	}
	if err := b.Trust(hosts); err != nil {
		t.Fatal(err)
	}
	again := n.open(t)
	for _, h := range hosts {
		if now := one(t, again, h.Target); now.Key.State != bootstrap.KeyKnown {
			t.Errorf("%s is %+v", h.Host, now.Key)
		}
	}
	if info, err := os.Stat(filepath.Join(n.state, "known_hosts")); err != nil || info.Mode().Perm()&0o077 != 0 {
		t.Errorf("own file is %v, %v", info.Mode(), err)
	}
	if _, err := os.Stat(filepath.Join(n.home, ".ssh", "known_hosts")); err == nil {
		t.Error("the operator's own file was written")
	}
}

// A line that is no key costs nobody the keys on the other lines.
func TestDamagedLineOfHostKeysIsLeftOut(t *testing.T) {
	t.Parallel()
	for _, transport := range []string{bootstrap.TransportLibrary, bootstrap.TransportOpenSSH} {
		t.Run(transport, func(t *testing.T) {
			t.Parallel()
			n := newNear(t)
			n.options.Transport = transport
			mine := n.key(t, "")
			n.config(t, fmt.Sprintf("Host *\n IdentityFile %s\n", mine.path))
			f, old := newFar(t, mine), newFar(t)
			path := filepath.Join(n.state, "known_hosts")
			write(t, path, fmt.Appendf(nil, "[mini.local]:22 ssh-ed25519 AAAAC3Nza\n# fine\n\x00garbage\n%s", bytes.TrimSpace(f.known())))
			h := one(t, n.open(t), f.target())
			if h.Key.State != bootstrap.KeyKnown {
				t.Errorf("key is %+v", h.Key)
			}
			var told []string
			for _, x := range h.Findings {
				if x.Check == bootstrap.CheckConfig && x.State == plan.FindingWarn {
					told = append(told, x.Message, x.Fix)
				}
			}
			if len(told) != 2 || !strings.Contains(told[0], path+":1, "+path+":3") || strings.Contains(told[0], path+":4") || told[1] == "" {
				t.Errorf("told %q", told)
			}
			// What is learned afterwards begins a line of its own, and counts.
			added := newFar(t, mine)
			b := n.open(t)
			hosts := []*bootstrap.Host{b.Probe(t.Context(), added.target())}
			if err := b.Trust(hosts); err != nil {
				t.Fatal(err)
			}
			one(t, n.open(t), added.target())
			one(t, n.open(t), f.target())
			// A changed key is still told of by its own line.
			old.port = f.port
			write(t, path, append([]byte("garbage\n"), old.known()...))
			found := failing(t, n.open(t), f.target(), bootstrap.CheckHostKey)
			has(t, found.Message, path+":2")
			has(t, found.Fix, path)
		})
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
			h := b.Probe(t.Context(), f.target())
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
				h := b.Probe(t.Context(), target)
				if h.Key.State != bootstrap.KeyNew || h.Ready() || h.Failure() != nil {
					t.Errorf("%s is %+v with %+v, want a host that waits", name, h.Key, h.Findings)
				}
			}
			if log := f.log.String(); strings.Contains(log, "Accepted") {
				t.Errorf("somebody authenticated on the word of an advert: %s", log)
			}
		})
	}
}

func TestAnotherHostAtAStaleAddressIsPassedBy(t *testing.T) {
	t.Parallel()
	for _, transport := range []string{bootstrap.TransportLibrary, bootstrap.TransportOpenSSH} {
		t.Run(transport, func(t *testing.T) {
			t.Parallel()
			n := newNear(t)
			mine := n.key(t, "")
			n.config(t, fmt.Sprintf("Host *\n IdentityFile %s\n", mine.path)) // ssh looks for the usual one in the account's own home
			f, other := makeFar(t, mine), makeFar(t, mine)
			f.listen, other.listen, other.port = "127.0.0.3", "127.0.0.2", f.port
			target := f.target()
			target.Host, target.Source, target.Addresses = "attic.invalid", bootstrap.SourceRoster, []string{other.listen}
			for i := 4; i < 10; i++ { // so that one of the stale ones answers first
				stale := fmt.Sprintf("127.0.0.%d", i)
				other.extra += "ListenAddress " + stale + "\n"
				target.Addresses = append(target.Addresses, stale)
			}
			target.Addresses = append(target.Addresses, f.listen)
			f.start(t)
			other.start(t)
			n.knows(t, f.known("attic.invalid"))
			n.options.Transport = transport
			b := n.open(t)
			for range 3 {
				one(t, b, target)
			}
			if strings.Contains(other.log.String(), "Accepted") {
				t.Error("somebody authenticated with the other host")
			}
			f.stop()
			failing(t, b, target, bootstrap.CheckHostKey)
		})
	}
}
