package main

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func TestLineSaysWhetherTheTargetIsMet(t *testing.T) {
	for _, c := range []struct {
		f    figure
		want string
	}{
		{figure{Name: "a", Value: 1, Unit: "ratio", Target: 1, BLAS: "openblas"}, "a 1.000 ratio >=1 ok openblas"},
		{figure{Name: "a", Value: 0.5, Unit: "ratio", Target: 1}, "a 0.500 ratio >=1 short -"},
		{figure{Name: "a", Value: 1, Unit: "ms", Target: 1, AtMost: true}, "a 1.000 ms <=1 ok -"},
		{figure{Name: "a", Value: 2, Unit: "ms", Target: 1, AtMost: true}, "a 2.000 ms <=1 short -"},
		{figure{Name: "a", Value: 1, Unit: "tokens", AtMost: true}, "a 1.000 tokens <=0 short -"},
		{figure{Name: "a", Value: 0, Unit: "tokens", AtMost: true}, "a 0.000 tokens <=0 ok -"},
		{figure{Name: "a", Value: 7, Unit: "tok/s"}, "a 7.000 tok/s - ok -"},
	} {
		var out strings.Builder
		(&report{out: &out}).add(c.f)
		if got := strings.Join(strings.Fields(out.String()), " "); got != c.want {
			t.Errorf("line of %+v is %q, want %q", c.f, got, c.want)
		}
	}
}

func TestWhatTakesLongIsNoPartOfAll(t *testing.T) {
	var all []string
	for _, p := range parts() {
		if !p.extra {
			all = append(all, p.name)
		}
	}
	if slices.Contains(all, "soak") || slices.Contains(all, "up") || !strings.Contains(partNames(), "up, soak") || len(all) < 9 {
		t.Errorf("parts of all: %v; parts: %s", all, partNames())
	}
}

// grown is a soak of 100 minutes whose agent grows by 1 MiB a minute from 100 MiB on, while its worker stays as it is.
func grown() *memoryLog {
	m := &memoryLog{of: []process{{"worker", 1}, {"agent", 2}}, lasted: 100 * time.Minute}
	for i := range 100 {
		at := time.Duration(i+1) * time.Minute
		m.samples = append(m.samples, sample{at: at, bytes: []float64{5 << 20, float64((100 + i + 1) << 20)}})
	}
	return m
}

func TestSoakComparesTheEndWithATenth(t *testing.T) {
	var out strings.Builder
	b := &bench{report: &report{out: &out}, soak: 100 * time.Minute}
	var count tally
	count.failed.Store(2)
	if err := grown().add(b, &count); err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	short := map[string]bool{}
	for _, f := range b.figures {
		got[f.Name], short[f.Name] = f.Value, f.verdict() == "short"
	}
	// The windows are those that end at 10 and at 100 minutes, three and a third long.
	if got["soak_worker_memory"] != 1 || got["soak_agent_memory"] != 199.0/109.0 {
		t.Errorf("memory grew by %v and %v", got["soak_worker_memory"], got["soak_agent_memory"])
	}
	if short["soak_worker_memory"] || !short["soak_agent_memory"] || !short["soak_failed"] {
		t.Errorf("short: %v", short)
	}
}

func TestSoakThatWasCutOffHasNoFigures(t *testing.T) {
	m := grown()
	m.samples = m.samples[:50]
	if err := m.add(&bench{report: &report{out: &strings.Builder{}}}, &tally{}); err == nil {
		t.Error("half a soak gave figures")
	}
}
