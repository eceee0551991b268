package cmd

import (
	"strings"
	"testing"

	"github.com/mlxctl/mlxctl/internal/service"
)

func TestTwoCommandsDoNotInterleave(t *testing.T) {
	t.Parallel()
	f := newFakeNet(t)
	f.mac("a")
	release, err := service.Lock(t.Context(), f.home, nodesLock)
	if err != nil {
		t.Fatal(err)
	}
	wants(t, "locked", f.run("", "up", "--yes", "--timeout", "3s"), exitUnreachable, "waiting for another mlxctl", "another mlxctl still changes")
	if len(f.log) > 0 {
		t.Errorf("%v", f.log)
	}
	release()
	wants(t, "free", f.run("", "up", "--yes"), 0, "2 nodes serve")
}

func TestUpRefusesSettingsWithWhichNobodyCouldJoin(t *testing.T) {
	t.Parallel()
	f := newFakeNet(t)
	wants(t, "loopback", f.run("", "up", "--nats-addr", "127.0.0.1:8660"), exitUsage, "lets no other Mac in", "0.0.0.0:8660")
	wants(t, "own NATS", f.run("", "up", "--nats-url", "tls://h:1"), exitUsage, "nats_url is set")
}

func TestBusOpensToTheNetwork(t *testing.T) {
	t.Parallel()
	for was, want := range map[string]string{
		"127.0.0.1:8660": "0.0.0.0:8660", "localhost:8670": "0.0.0.0:8670", "[::1]:9": "0.0.0.0:9", "": "0.0.0.0:8660",
		"0.0.0.0:8671": "0.0.0.0:8671", "10.0.0.5:8660": "10.0.0.5:8660",
	} {
		if got := openToNetwork(&localSettings{NATSAddr: was, Name: "x"}); got.NATSAddr != want || got.Name != "x" {
			t.Errorf("%q: %+v, want %q", was, got, want)
		}
	}
	if got := openToNetwork(nil); got.NATSAddr != openNATSAddr {
		t.Errorf("%+v", got)
	}
	urls, err := networkURLs("tls://", "0.0.0.0:8660")
	if err != nil || len(urls) == 0 || !strings.HasSuffix(urls[len(urls)-1], ".local:8660") {
		t.Errorf("%v, %v", urls, err)
	}
	for _, u := range urls {
		if !strings.HasPrefix(u, "tls://") || strings.Contains(u, "127.0.0.1") || strings.Contains(u, "0.0.0.0") {
			t.Errorf("%v", urls)
		}
	}
}

// With real services: a bus on loopback is opened, which is said, and another up changes nothing.
func TestUpOpensTheBusOfRealServices(t *testing.T) {
	t.Parallel()
	h := running(t, "MLXCTL_NATS_ADDR=") // where up --local wants no address, it takes a free one
	before := h.pid("controller")
	addr := func() string {
		l, _, err := readLocal(h.dir)
		if err != nil {
			t.Fatal(err)
		}
		return l.NATSAddr
	}
	was := addr()
	if !isLoopback(was) {
		t.Fatalf("up --local listens on %s", was)
	}
	dry := h.run("up", "--no-discover", "--dry-run")
	wants(t, "dry run", dry, 0, "again, with the bus on 0.0.0.0:")
	if h.pid("controller") != before || addr() != was {
		t.Error("the dry run changed something")
	}
	wants(t, "up", h.run("up", "--no-discover"), 0, "starting the services again, with the bus on 0.0.0.0:", "in place of "+was, "1 node serves, 1 changed")
	if got, want := addr(), "0.0.0.0"+strings.TrimPrefix(was, "127.0.0.1"); got != want {
		t.Errorf("the bus is on %s, want %s", got, want)
	}
	opened := h.pid("controller")
	wants(t, "again", h.run("up", "--no-discover"), 0, "1 node serves, 0 changed")
	if h.pid("controller") != opened {
		t.Error("it started the services again")
	}
	exe := h.exe
	h.exe = binaryOf(t, "v0.0.9-new", "")
	wants(t, "newer", h.run("up", "--no-discover", "--dry-run"), 0, "upgrade: from v0.0.0-test to v0.0.9-new")
	h.exe = exe
	wants(t, "named and not there", h.run("up", "--yes", "nobody@127.0.0.1:1"), exitFailed, "127.0.0.1:")
	wants(t, "upgrade", h.run("upgrade", "--all", "--yes"), 0, "runs this version")
	if h.pid("controller") != opened {
		t.Error("an upgrade to the same version started the services again")
	}
	wants(t, "local", h.run("up", "--local"), 0, "nothing changed")
}
