package hwmon

import (
	"context"
	"errors"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// fakeSource counts readings.
type fakeSource struct {
	takes    time.Duration // one reading
	readings atomic.Int32
	limit    int64
}

func (s *fakeSource) hardware(ctx context.Context) cluster.Hardware {
	if ctx.Err() != nil {
		return cluster.Hardware{}
	}
	s.readings.Add(1)
	return cluster.Hardware{OS: "darwin", MemoryBytes: 48 << 30}
}

func (s *fakeSource) load(ctx context.Context) cluster.Load {
	select {
	case <-time.After(s.takes):
	case <-ctx.Done():
		return cluster.Load{}
	}
	percent := float64(s.readings.Add(1))
	return cluster.Load{CPUPercent: &percent}
}

func (s *fakeSource) hardwareID(context.Context) (string, error) { return "", errors.New("none") }
func (s *fakeSource) gpuLimit() int64                            { return s.limit }

func TestLoadIsReadInTheBackground(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newMonitor(Options{}, &fakeSource{takes: time.Second})
		defer m.Close()
		begun := time.Now()
		is(t, "first reading", m.Load(t.Context()).CPUPercent, 1)
		if took := time.Since(begun); took != time.Second {
			t.Errorf("the first reading took %s", took)
		}
		elapse := func(d time.Duration) {
			<-time.After(d)
			synctest.Wait()
		}
		elapse(time.Second)
		is(t, "fresh reading", m.Load(t.Context()).CPUPercent, 1)
		elapse(1500 * time.Millisecond)
		at := time.Now()
		for range 3 { // one reading is enough for all who ask
			is(t, "stale reading", m.Load(t.Context()).CPUPercent, 1)
		}
		if took := time.Since(at); took != 0 {
			t.Errorf("a later reading was waited for, %s", took)
		}
		elapse(time.Second)
		is(t, "new reading", m.Load(t.Context()).CPUPercent, 2)
	})
}

func TestLoadDoesNotOutlastItsCaller(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newMonitor(Options{}, &fakeSource{takes: time.Hour})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begun := time.Now()
		if l := m.Load(ctx); l.CPUPercent != nil || time.Since(begun) != time.Second {
			t.Errorf("got %+v after %s", l, time.Since(begun))
		}
		m.Close() // ends the reading, and waits for it
		if took := time.Since(begun); took != time.Second {
			t.Errorf("Close took until %s", took)
		}
		if l := m.Load(t.Context()); l.CPUPercent != nil {
			t.Errorf("after Close: %+v", l)
		}
	})
}

// A reading that hangs is given up, and the next one is taken.
func TestReadingIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newMonitor(Options{}, &fakeSource{takes: time.Hour})
		defer m.Close()
		begun := time.Now()
		if l := m.Load(t.Context()); l.CPUPercent != nil || time.Since(begun) != readTimeout {
			t.Errorf("got %+v after %s", l, time.Since(begun))
		}
	})
}

func TestHardwareIsReadOnceAndWhole(t *testing.T) {
	t.Parallel()
	s := &fakeSource{}
	m := newMonitor(Options{}, s)
	defer m.Close()
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for range 3 {
		if hw := m.Hardware(ended); hw.MemoryBytes != 48<<30 {
			t.Errorf("got %+v", hw)
		}
	}
	if n := s.readings.Load(); n != 1 {
		t.Errorf("%d readings", n)
	}
	if _, err := m.HardwareID(t.Context()); err == nil {
		t.Error("an id where there is none")
	}
}

func TestBudget(t *testing.T) {
	t.Parallel()
	const gb = int64(1) << 30
	for limit, want := range map[int64]int64{0: 36 * gb, 40 * gb: 40 * gb, 48 * gb: 36 * gb, 99 * gb: 36 * gb} {
		m := newMonitor(Options{}, &fakeSource{limit: limit})
		if got := m.Budget(t.Context()); got != want {
			t.Errorf("limit %d: got %d, want %d", limit, got, want)
		}
		m.Close()
	}
	for _, c := range []struct {
		hw   cluster.Hardware
		want int64
	}{
		{cluster.Hardware{OS: "darwin", MemoryBytes: 24 * gb}, 16 * gb},
		{cluster.Hardware{OS: "darwin", MemoryBytes: 36 * gb}, 24 * gb},
		{cluster.Hardware{OS: "darwin", MemoryBytes: 64 * gb}, 48 * gb},
		{cluster.Hardware{OS: "linux", MemoryBytes: 16 * gb}, 8 * gb},
		{cluster.Hardware{OS: "darwin"}, 0},
		{cluster.Hardware{OS: "linux"}, 0},
	} {
		if got := DefaultBudget(c.hw); got != c.want {
			t.Errorf("%+v: got %d, want %d", c.hw, got, c.want)
		}
	}
}

// The machine that runs the tests has a memory and a processor, whatever else it has not.
func TestThisMachine(t *testing.T) {
	t.Parallel()
	m := New(Options{})
	defer m.Close()
	hw := m.Hardware(t.Context())
	if hw.OS != runtime.GOOS || hw.Arch != runtime.GOARCH || hw.MemoryBytes < 64<<20 || hw.CPUs < 1 {
		t.Errorf("hardware is %+v", hw)
	}
	l := m.Load(t.Context())
	if l.MemoryFreeBytes == nil || *l.MemoryFreeBytes <= 0 || *l.MemoryFreeBytes > hw.MemoryBytes {
		t.Errorf("load is %+v of %+v", l, hw)
	}
	if b := m.Budget(t.Context()); b <= 0 || b > hw.MemoryBytes {
		t.Errorf("budget is %d of %d", b, hw.MemoryBytes)
	}
}

func TestRunTool(t *testing.T) {
	t.Parallel()
	out, err := runTool(t.Context(), "/bin/sh", "-c", "echo $LC_ALL")
	if err != nil || string(out) != "C\n" {
		t.Errorf("got %q, %v", out, err)
	}
	if _, err := runTool(t.Context(), "/bin/sh", "-c", "exit 3"); err == nil {
		t.Error("a tool that failed is believed")
	}
	if _, err := runTool(t.Context(), "/none"); err == nil {
		t.Error("a tool that is not there is believed")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := runTool(ctx, "/bin/sh", "-c", "echo"); err == nil {
		t.Error("ran after the end")
	}
}
