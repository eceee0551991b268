package hwmon

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// procfs reads a Linux machine from the files below root.
type procfs struct {
	root string
	last cpuTime // of the reading before this one
}

func (p *procfs) file(path string) []byte {
	b, err := os.ReadFile(filepath.Join(p.root, path))
	if err != nil {
		return nil
	}
	return b
}

func (p *procfs) hardware(context.Context) cluster.Hardware {
	hw := cluster.Hardware{
		OS: "linux", Arch: runtime.GOARCH, CPUs: runtime.NumCPU(),
		Chip:      parseCPUInfo(p.file("proc/cpuinfo")),
		OSVersion: parseOSRelease(p.file("etc/os-release")),
		Model:     strings.TrimSpace(string(p.file("sys/devices/virtual/dmi/id/product_name"))),
	}
	if total, ok := parseMemInfo(p.file("proc/meminfo"))["MemTotal"]; ok {
		hw.MemoryBytes = total
	}
	if limit, ok := p.cgroupMemory(); ok && limit.most < hw.MemoryBytes {
		hw.MemoryBytes = limit.most
	}
	return hw
}

func (p *procfs) load(context.Context) cluster.Load {
	load := cluster.Load{PowerWatts: p.power()}
	if free, ok := parseMemInfo(p.file("proc/meminfo"))["MemAvailable"]; ok {
		if limit, ok := p.cgroupMemory(); ok && limit.free >= 0 {
			free = min(free, limit.free)
		}
		load.MemoryFreeBytes = &free
	}
	if now, ok := parseCPUTime(p.file("proc/stat")); ok {
		if percent, ok := now.busySince(p.last); ok {
			load.CPUPercent = &percent
		}
		p.last = now
	}
	return load
}

func (p *procfs) hardwareID(context.Context) (string, error) {
	b, err := os.ReadFile(filepath.Join(p.root, "etc/machine-id"))
	if err != nil {
		return "", err
	}
	id := strings.TrimSpace(string(b))
	if id == "" || id == "uninitialized" {
		return "", errors.New("/etc/machine-id is empty")
	}
	if len(id) > 128 || strings.ContainsFunc(id, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", errors.New("/etc/machine-id holds no id")
	}
	return id, nil
}

func (p *procfs) gpuLimit() int64 { return 0 }

// parseMemInfo reads /proc/meminfo; values in bytes.
func parseMemInfo(b []byte) map[string]int64 {
	values := map[string]int64{}
	for line := range lines(b) {
		key, rest, ok := strings.Cut(line, ":")
		if !ok {
			continue
		}
		number, isKB := strings.CutSuffix(strings.TrimSpace(rest), " kB")
		n, err := strconv.ParseInt(number, 10, 64)
		if err != nil || n < 0 || !isKB || n > 1<<52 {
			continue
		}
		values[key] = n << 10
	}
	return values
}

// parseCPUInfo finds the name of the CPU; "" where the kernel gives none, as on most ARM machines.
func parseCPUInfo(b []byte) string {
	for line := range lines(b) {
		key, value, ok := strings.Cut(line, ":")
		if ok && strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// parseOSRelease finds the name of the distribution with its version.
func parseOSRelease(b []byte) string {
	for line := range lines(b) {
		if value, ok := strings.CutPrefix(line, "PRETTY_NAME="); ok {
			return strings.Trim(strings.TrimSpace(value), `"'`)
		}
	}
	return ""
}

// cpuTime counts what all cores together did since the start, in ticks.
type cpuTime struct{ busy, all uint64 }

// parseCPUTime reads the first line of /proc/stat: user nice system idle iowait irq softirq steal, and guest times
// that user and nice already hold.
func parseCPUTime(b []byte) (cpuTime, bool) {
	line, _, _ := bytes.Cut(b, []byte("\n"))
	fields := strings.Fields(string(line))
	if len(fields) < 5 || fields[0] != "cpu" {
		return cpuTime{}, false
	}
	var t cpuTime
	for i, f := range fields[1:min(len(fields), 9)] {
		n, err := strconv.ParseUint(f, 10, 64)
		if err != nil {
			return cpuTime{}, false
		}
		t.all += n
		if idle := i == 3 || i == 4; !idle {
			t.busy += n
		}
	}
	return t, true
}

// busySince is the share of busy time since an earlier reading, in percent. There is none without one.
func (t cpuTime) busySince(before cpuTime) (float64, bool) {
	if before.all == 0 || t.all <= before.all || t.busy < before.busy {
		return 0, false
	}
	return min(100, 100*float64(t.busy-before.busy)/float64(t.all-before.all)), true
}

func lines(b []byte) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		s := bufio.NewScanner(bytes.NewReader(b))
		s.Buffer(nil, 1<<20)
		for s.Scan() {
			if !yield(s.Text()) {
				return
			}
		}
	}
}

func parseBytes(b []byte) (int64, error) {
	n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("parse size: %w", err)
	}
	if n < 0 {
		return 0, errors.New("parse size: it is negative")
	}
	return n, nil
}
