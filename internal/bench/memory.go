package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// sample is the memory of the watched processes at a moment, in bytes and in their order.
type sample struct {
	at    time.Duration
	bytes []float64
}

// memoryLog is what was seen of them in all the time.
type memoryLog struct {
	of      []process
	lasted  time.Duration
	samples []sample
}

// watch looks at the memory of processes every second until the context ends, and prints a line a minute.
func watch(ctx context.Context, b *bench, of []process, count *tally) (*memoryLog, error) {
	m := &memoryLog{of: of, lasted: b.soak}
	began, tick := time.Now(), time.NewTicker(time.Second)
	defer tick.Stop()
	said := time.Duration(0)
	for {
		select {
		case <-ctx.Done():
			return m, nil
		case <-tick.C:
		}
		s := sample{at: time.Since(began)}
		for _, p := range of {
			n, err := residentBytes(ctx, p.pid)
			if ctx.Err() != nil {
				return m, nil
			}
			if err != nil {
				return nil, fmt.Errorf("look at the memory of the %s, which should live: %w", p.name, err)
			}
			s.bytes = append(s.bytes, n)
		}
		m.samples = append(m.samples, s)
		if s.at-said >= time.Minute {
			said += time.Minute
			_, _ = fmt.Fprintf(b.out, "soak %3.0f min: %s, %d answers, %d given up, %d failed, %d tokens\n", said.Minutes(),
				m.describe(s), count.answers.Load(), count.cancelled.Load(), count.failed.Load(), count.tokens.Load())
		}
	}
}

func (m *memoryLog) describe(s sample) string {
	var parts []string
	for i, p := range m.of {
		parts = append(parts, fmt.Sprintf("%s %.0f MiB", p.name, s.bytes[i]/(1<<20)))
	}
	return strings.Join(parts, ", ")
}

// around returns the median of a process's memory in the time that ends with a part of the whole.
func (m *memoryLog) around(index int, part float64) (float64, error) {
	end := time.Duration(part * float64(m.lasted))
	begin := end - max(time.Duration(soakWindow*float64(m.lasted)), 3*time.Second)
	var found []float64
	for _, s := range m.samples {
		if s.at >= begin && s.at <= end {
			found = append(found, s.bytes[index])
		}
	}
	if len(found) == 0 {
		return 0, fmt.Errorf("the memory was not seen between %s and %s", begin.Round(time.Second), end.Round(time.Second))
	}
	return median(found), nil
}

// add turns what was seen into figures.
func (m *memoryLog) add(b *bench, count *tally) error {
	for i, p := range m.of {
		early, err := m.around(i, soakEarly)
		if err != nil {
			return err
		}
		late, err := m.around(i, 1)
		if err != nil {
			return err
		}
		b.add(figure{Name: "soak_" + p.name + "_memory", Value: late / early, Unit: "ratio", Target: soakGrowth, AtMost: true, BLAS: b.blas})
		b.add(figure{Name: "soak_" + p.name + "_memory_end", Value: late / (1 << 20), Unit: "MiB", BLAS: b.blas})
	}
	b.add(figure{Name: "soak_failed", Value: float64(count.failed.Load()), Unit: "answers", AtMost: true, BLAS: b.blas})
	b.add(figure{Name: "soak_answers", Value: float64(count.answers.Load()), Unit: "answers", BLAS: b.blas})
	return nil
}

// residentBytes returns how much memory a process has in RAM. Linux tells without ps, which may be missing there.
func residentBytes(ctx context.Context, pid int) (float64, error) {
	if status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid)); err == nil {
		_, rest, _ := strings.Cut(string(status), "VmRSS:")
		return kibibytes(strings.TrimSuffix(strings.TrimSpace(strings.SplitN(rest, "\n", 2)[0]), " kB"))
	}
	out, err := exec.CommandContext(ctx, "ps", "-o", "rss=", "-p", strconv.Itoa(pid)).Output()
	if err != nil {
		return 0, fmt.Errorf("process %d: %w", pid, err)
	}
	return kibibytes(strings.TrimSpace(string(out)))
}

func kibibytes(s string) (float64, error) {
	n, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return 0, fmt.Errorf("read memory %q: %w", s, err)
	}
	return n * 1024, nil
}
