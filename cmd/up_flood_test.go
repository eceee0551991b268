package cmd

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	bootplan "github.com/mlxctl/mlxctl/internal/bootstrap/plan"
)

// flood has Bonjour tell of n Macs, none of which answers.
func (f *fakeNet) flood(n int) {
	for i := range n {
		name := fmt.Sprintf("x%04d", i)
		f.sightings = append(f.sightings, foundMac{
			Name: name, HostName: name + ".local.", Port: 22, RemoteLogin: true,
			Addresses: []netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, byte(i%200 + 10)})},
		})
	}
}

func TestUpLooksAtNoMoreMacsThanAnOfficeHas(t *testing.T) {
	t.Parallel()
	f := newFakeNet(t)
	f.flood(1000)
	f.mac("anna")
	got := f.run("", "up", "--yes", "anna.local")
	if got.code != 0 || f.logged("install anna.local") != 1 {
		t.Fatalf("exit %d: %s", got.code, got.err)
	}
	got = f.run("", "up", "--yes")
	heard := 0
	for _, p := range f.probed {
		if p.Source == sourceBonjour {
			heard++
		}
	}
	if want := fmt.Sprintf("%d left out", 1000-mostHeard); heard != mostHeard || !strings.Contains(got.err, want) {
		t.Errorf("%d hosts were probed, want %d and %q; said: %s", heard, mostHeard, want, got.err)
	}
}

// silent is a network on which nobody answers.
type silent struct{ *fakeNet }

func (silent) Probe(ctx context.Context, targets []target) []*foundHost {
	<-ctx.Done()
	return []*foundHost{{target: targets[0], Findings: []bootplan.Finding{{Check: checkReach, State: bootplan.FindingFail}}}}
}

func TestMacsThatDoNotAnswerTakeTheirTimeTogether(t *testing.T) {
	t.Parallel()
	f := newFakeNet(t)
	f.flood(mostHeard + 10)
	s := &search{installer: silent{f}, room: make(chan struct{}, 2), macs: map[string]*sighting{}}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	for _, m := range slices.Concat(f.sightings, f.sightings) {
		s.see(ctx, m, "anna")
	}
	began := time.Now()
	s.wg.Wait()
	if took := time.Since(began); took > time.Minute { // one after the other, they would take as long as all of them
		t.Errorf("it took %v", took)
	}
	if len(s.hosts) != 0 || len(s.leftOut) != mostHeard+10 {
		t.Errorf("%d hosts, %d left out, want all of them left out", len(s.hosts), len(s.leftOut))
	}
}
