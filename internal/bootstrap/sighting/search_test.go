package sighting_test

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mlxctl/mlxctl/internal/bonjour"
	"github.com/mlxctl/mlxctl/internal/bootstrap"
	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/bootstrap/sighting"
)

// network is what answers over SSH: hosts by the name that ssh is given. Others do not answer.
type network struct {
	keys   map[string]string // by name
	silent bool              // nobody even refuses

	mu     sync.Mutex
	probed []bootstrap.Target
}

func (n *network) Probe(ctx context.Context, t bootstrap.Target) *bootstrap.Host {
	n.mu.Lock()
	n.probed = append(n.probed, t)
	n.mu.Unlock()
	if n.silent {
		<-ctx.Done()
	}
	h := &bootstrap.Host{Target: t}
	key := n.keys[t.Host]
	if key == "" {
		h.Findings = []plan.Finding{{Check: bootstrap.CheckReach, State: plan.FindingFail}}
		return h
	}
	return known(h, key, "")
}

// says is a Bonjour that tells of Macs, in this order.
func says(macs ...bonjour.Mac) func(context.Context, bonjour.ScanOptions) ([]bonjour.Mac, error) {
	return func(_ context.Context, o bonjour.ScanOptions) ([]bonjour.Mac, error) {
		for _, m := range macs {
			o.Found(m)
		}
		return macs, nil
	}
}

func mac(name string, addrs ...string) bonjour.Mac {
	return bonjour.Mac{Name: name, HostName: name + ".local", Addrs: sighting.Addresses(addrs), Port: 22, RemoteLogin: true}
}

func closed(m bonjour.Mac) bonjour.Mac {
	m.RemoteLogin, m.Port = false, 0
	return m
}

// flood is n Macs, none of which answers.
func flood(n int) []bonjour.Mac {
	var out []bonjour.Mac
	for i := range n {
		m := mac(fmt.Sprintf("x%04d", i))
		m.Addrs = []netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, byte(i%200 + 10)})}
		out = append(out, m)
	}
	return out
}

func look(t *testing.T, s sighting.Search, named ...bootstrap.Target) sighting.Found {
	t.Helper()
	got, err := s.Run(t.Context(), named, nil)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestSearchLooksAtNoMoreMacsThanAnOfficeHas(t *testing.T) {
	t.Parallel()
	n := &network{keys: map[string]string{"anna.local": "A"}}
	got := look(t, sighting.Search{Prober: n, Scan: says(flood(1000)...)}, bootstrap.Target{Host: "anna.local", Source: typed})
	if len(n.probed) != sighting.MostHeard+1 || got.LeftOut != 1000-sighting.MostHeard {
		t.Errorf("%d hosts were probed, %d left out", len(n.probed), got.LeftOut)
	}
	if len(got.Hosts) != sighting.MostHeard+1 || got.Hosts[0].Host != "anna.local" || got.Hosts[0].Failure() != nil {
		t.Errorf("%d hosts, the first is %+v", len(got.Hosts), got.Hosts[0])
	}
}

func TestMacsThatDoNotAnswerTakeTheirTimeTogether(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		macs := flood(sighting.MostHeard + 10)
		began := time.Now()
		got := look(t, sighting.Search{
			Prober: &network{silent: true}, Parallel: 2, Scan: says(slices.Concat(macs, macs)...), Patience: time.Minute,
		})
		if took := time.Since(began); took > 2*time.Minute {
			t.Errorf("it took %v", took)
		}
		if len(got.Hosts) != 0 || got.LeftOut != sighting.MostHeard+10 {
			t.Errorf("%d hosts, %d left out, want all of them left out", len(got.Hosts), got.LeftOut)
		}
	})
}

// Bonjour tells of addresses one by one: a Mac is given a moment to tell of one that is good beyond its link.
func TestMacIsReachedAtItsBestAddress(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := &network{keys: map[string]string{"mini.local": "M", "linked.local": "L"}}
		scan := func(_ context.Context, o bonjour.ScanOptions) ([]bonjour.Mac, error) {
			o.Found(mac("mini", "fe80::1%en7"))
			o.Found(mac("linked", "fe80::2%en7"))
			<-time.After(100 * time.Millisecond) // of the bubble's clock
			o.Found(mac("mini", "fe80::1%en7", "192.0.2.10"))
			synctest.Wait()
			o.Found(mac("mini", "2001:db8::1", "fe80::1%en7", "192.0.2.10"))
			return nil, nil
		}
		got := look(t, sighting.Search{Prober: n, Scan: scan, User: "anna"})
		var all []string
		for _, p := range n.probed {
			all = append(all, p.User+"@"+p.Host+" "+strings.Join(p.Addresses, " "))
		}
		if want := []string{"anna@mini.local 192.0.2.10 fe80::1%en7", "anna@linked.local fe80::2%en7"}; !slices.Equal(all, want) {
			t.Errorf("probed %q, want %q", all, want)
		}
		if len(got.Hosts) != 2 || strings.Join(got.Hosts[1].Addresses, " ") != "192.0.2.10 2001:db8::1 fe80::1%en7" {
			t.Errorf("found %+v", got.Hosts)
		}
	})
}

func TestMacsWithoutRemoteLoginAreListedUnlessTheyAreReached(t *testing.T) {
	t.Parallel()
	n := &network{keys: map[string]string{"192.0.2.10": "A", "b.local": "B"}}
	self := closed(mac("me", "192.0.2.1"))
	self.Self = true
	got := look(t, sighting.Search{Prober: n, Scan: says(
		closed(mac("reached", "192.0.2.10")), closed(mac("named", "192.0.2.12")), closed(mac("off", "192.0.2.11")), self, closed(mac("nowhere")), mac("b", "192.0.2.13"),
	)}, bootstrap.Target{Host: "192.0.2.10", Source: typed}, bootstrap.Target{Host: "NAMED.local.", Source: config})
	if len(got.Without) != 1 || got.Without[0].Name != "off" {
		t.Errorf("without Remote Login: %+v", got.Without)
	}
	if len(got.Hosts) != 3 {
		t.Errorf("hosts: %+v", got.Hosts)
	}
}

// A host that is named and whose name this system cannot resolve is reached where Bonjour saw it, once.
func TestNamedHostIsLookedAtWhereBonjourSeesIt(t *testing.T) {
	t.Parallel()
	n := &network{}
	got := look(t, sighting.Search{Prober: n, Scan: says(mac("mini", "192.0.2.10"))}, bootstrap.Target{Host: "mini.local", Source: config})
	if len(n.probed) != 2 || len(n.probed[0].Addresses) != 0 || !slices.Equal(n.probed[1].Addresses, []string{"192.0.2.10"}) {
		t.Errorf("probed %+v", n.probed)
	}
	if len(got.Hosts) != 1 || got.Hosts[0].Source != config {
		t.Errorf("found %+v", got.Hosts)
	}
}

func TestProbeKeepsTheOrderOfTheTargets(t *testing.T) {
	t.Parallel()
	n := &network{keys: map[string]string{"a": "A", "b": "B", "c": "C"}}
	var got []string
	for _, h := range sighting.Probe(t.Context(), n, []bootstrap.Target{{Host: "c"}, {Host: "x"}, {Host: "a"}, {Host: "b"}}, 2) {
		got = append(got, h.Host+h.Key.Fingerprint)
	}
	if !slices.Equal(got, []string{"cC", "x", "aA", "bB"}) {
		t.Errorf("got %q", got)
	}
}

// Without a bound of one's own there is one, and the end of ctx ends the waiting for room as well.
func TestProbeEndsWithItsContext(t *testing.T) {
	t.Parallel()
	targets := make([]bootstrap.Target, 20)
	for i := range targets {
		targets[i].Host = fmt.Sprint(i)
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		n := &network{silent: true}
		done := make(chan []*bootstrap.Host, 1)
		go func() { done <- sighting.Probe(ctx, n, targets, 0) }()
		synctest.Wait()
		n.mu.Lock()
		atATime := len(n.probed)
		n.mu.Unlock()
		if atATime != 8 {
			t.Errorf("%d are probed at a time", atATime)
		}
		cancel()
		for i, h := range <-done {
			if h == nil || h.Host != targets[i].Host {
				t.Errorf("host %d is %+v", i, h)
			}
		}
	})
}

// A context that has ended keeps nobody waiting for room that a probe still has.
func TestProbeDoesNotWaitForRoomAfterItsEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		release, asked := make(chan struct{}), make(chan string, 2)
		p := stubborn{release, asked}
		done := make(chan struct{})
		go func() {
			defer close(done)
			sighting.Probe(ctx, p, []bootstrap.Target{{Host: "first"}, {Host: "second"}}, 1)
		}()
		if got := <-asked; got != "first" {
			t.Errorf("asked about %s", got)
		}
		cancel()
		synctest.Wait()
		select {
		case got := <-asked:
			if got != "second" {
				t.Errorf("asked about %s", got)
			}
		default:
			t.Error("it waits for room")
		}
		close(release)
		<-done
	})
}

// stubborn looks at the first host until it is released, whatever its context says.
type stubborn struct {
	release <-chan struct{}
	asked   chan<- string
}

func (p stubborn) Probe(_ context.Context, t bootstrap.Target) *bootstrap.Host {
	p.asked <- t.Host
	if t.Host == "first" {
		<-p.release
	}
	return &bootstrap.Host{Target: t}
}
