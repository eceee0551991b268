package cmd

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/mlxctl/mlxctl/internal/bus"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/freeport"
	"github.com/mlxctl/mlxctl/internal/trust"
)

// A node may not have another one thrown out by what it says of its keys.
func TestNodeCannotClaimKeysOfAnother(t *testing.T) {
	t.Parallel()
	s := newTrustSite(t)
	victim, thief := s.identity(t, "victim", true), s.identity(t, "thief", true)
	s.agent(t, victim, "victim")
	s.await(t, victim.ID, cluster.NodeReady)
	loot, err := bus.CredentialsFromFile(victim.CredentialsPath)
	if err != nil {
		t.Fatal(err)
	}
	own, err := bus.CredentialsFromFile(thief.CredentialsPath)
	if err != nil {
		t.Fatal(err)
	}
	o := s.options(thief.CredentialsPath)
	o.WaitForConnect = true
	conn, err := bus.Dial(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var mu sync.Mutex
	var says bus.RejoinReply
	_, err = conn.Handle(bus.CommandSubject(thief.ID, bus.VerbRejoin), func(context.Context, string, func(any) error) (any, error) {
		mu.Lock()
		defer mu.Unlock()
		return says, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	proof, err := own.Sign(bus.NextKeyClaim(thief.ID, victim.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	fresh, seed, err := trust.NewUserKey()
	if err != nil {
		t.Fatal(err)
	}
	honest, err := bus.Credentials{Seed: seed}.Sign(bus.NextKeyClaim(thief.ID, fresh))
	if err != nil {
		t.Fatal(err)
	}
	for name, lie := range map[string]bus.RejoinReply{
		"its token":    {JWT: loot.JWT, Next: fresh, Proof: honest},
		"its key":      {JWT: own.JWT, Next: victim.PublicKey, Proof: proof},
		"no key":       {JWT: own.JWT},
		"a false word": {JWT: "a.b.c"},
	} {
		mu.Lock()
		says = lie
		mu.Unlock()
		results, err := s.rotation(t).nodeKeys(t.Context())
		if exitCode(t.Context(), err) != exitPartial || len(without(results)) != 1 {
			t.Errorf("%s: got %+v, %v", name, results, err)
		}
		if n, err := s.roster.Find("thief"); err != nil || n.Key != thief.PublicKey {
			t.Errorf("%s: the roster has %+v, %v", name, n, err)
		}
	}
	s.await(t, victim.ID, cluster.NodeReady)
	if !conn.Connected() {
		t.Error("keys of the thief were revoked by its own lies")
	}
}

func TestRevocationByAnotherProcessClosesALiveConnection(t *testing.T) {
	t.Parallel()
	s := newTrustSite(t)
	one, two := s.identity(t, "one", true), s.identity(t, "two", true)
	s.agent(t, one, "one")
	s.agent(t, two, "two")
	s.await(t, one.ID, cluster.NodeReady)
	s.await(t, two.ID, cluster.NodeReady)
	gone := make(chan string, 16)
	s.server.OnDisconnect(func(key string, _ bool) { gone <- key })
	other, err := trust.Open(trustDir(s.dir))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := other.Revoke(one.PublicKey); err != nil {
		t.Fatal(err)
	}
	for key := ""; key != one.PublicKey; {
		select {
		case key = <-gone:
		case <-time.After(trustPatience):
			t.Fatal("the connection stays")
		}
	}
	s.await(t, one.ID, cluster.NodeDown)
	s.await(t, two.ID, cluster.NodeReady)
	o := s.options(one.CredentialsPath)
	o.WaitForConnect = true
	if _, err := bus.Dial(t.Context(), o); cluster.CodeOf(err) != cluster.CodeUnauthorized {
		t.Errorf("it may come back: %v", err)
	}
	h := &daemonHome{deps: &deps{}, home: t.TempDir(), local: &localSettings{NATSAddr: "127.0.0.1:0"}, slog: testLog(t)}
	conn, restarted, err := h.openBus(t.Context(), other)
	if err != nil {
		t.Fatal(err)
	}
	defer h.closeBus(conn, restarted)
	o.URLs = []string{restarted.URL()}
	if _, err := bus.Dial(t.Context(), o); cluster.CodeOf(err) != cluster.CodeUnauthorized {
		t.Errorf("it may come back after a restart: %v", err)
	}
	o.CredentialsFile = two.CredentialsPath
	c, err := bus.Dial(t.Context(), o)
	if err != nil {
		t.Fatalf("another node after a restart: %v", err)
	}
	_ = c.Close()
}

func TestNothingListensForJoinsWithoutAToken(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a, err := trust.Init(trustDir(dir), "attic")
	if err != nil {
		t.Fatal(err)
	}
	addr := freeport.Addr(t)
	served, ended := make(chan string, 1), make(chan struct{}, 1)
	f := &follower{authority: a, given: a.Accounts(), addr: addr, log: testLog(t), admit: func(ctx context.Context, l net.Listener) error {
		served <- l.Addr().String()
		<-ctx.Done()
		ended <- struct{}{}
		return l.Close()
	}}
	stop := f.start(t.Context())
	defer stop()
	within := func(what string, ch <-chan struct{}) {
		t.Helper()
		select {
		case <-ch:
		case <-time.After(trustPatience):
			t.Fatal("not in time: " + what)
		}
	}
	if c, err := net.Dial("tcp", addr); err == nil {
		_ = c.Close()
		t.Error("somebody listens without a token")
	}
	k, _, err := a.CreateToken(time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	select {
	case got := <-served:
		if got != addr {
			t.Errorf("listens on %s, want %s", got, addr)
		}
	case <-time.After(trustPatience):
		t.Fatal("nobody listens with a token")
	}
	if err := a.RemoveToken(k.ID); err != nil {
		t.Fatal(err)
	}
	within("the end with the token's", ended)
	deadline := time.Now().Add(trustPatience)
	for isServed := false; !isServed; { // a token may have expired before it was seen
		const lifetime = 5 * time.Second
		if _, _, err := a.CreateToken(time.Now(), lifetime); err != nil {
			t.Fatal(err)
		}
		select {
		case <-served:
			isServed = true
		case <-time.After(lifetime):
			if time.Now().After(deadline) {
				t.Fatal("nobody listens with a token that expires")
			}
		}
	}
	within("the end by time", ended)
}
