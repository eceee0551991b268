package hwmon

import (
	"bytes"
	"context"
	"errors"
	"runtime"
	"sync"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// macos reads a Mac through the kernel's variables and the tools that macOS brings. The functions are fields, so that
// everything but the two of them runs on any machine.
type macos struct {
	text   func(name string) (string, error) // of a kernel variable
	number func(name string) (uint64, error)
	run    func(ctx context.Context, name string, args ...string) ([]byte, error)

	hasNoBattery bool // ioreg said so; set by load, and nothing else looks at it
}

func (m *macos) hardware(ctx context.Context) cluster.Hardware {
	hw := cluster.Hardware{OS: "darwin", Arch: runtime.GOARCH, CPUs: runtime.NumCPU()}
	hw.Chip, _ = m.text("machdep.cpu.brand_string")
	hw.Model, _ = m.text("hw.model")
	hw.OSVersion, _ = m.text("kern.osproductversion")
	if n, err := m.number("hw.memsize"); err == nil && n < unlimited {
		hw.MemoryBytes = int64(n)
	}
	if out, err := m.run(ctx, "/usr/sbin/ioreg", "-rc", "AGXAccelerator", "-d1", "-w0"); err == nil {
		hw.GPUCores = parseAccelerator(out).cores
	}
	hw.GPULimitBytes = m.gpuLimit()
	return hw
}

// load runs the tools side by side: iostat takes a second.
func (m *macos) load(ctx context.Context) cluster.Load {
	var load cluster.Load
	if n, err := m.number("kern.memorystatus_vm_pressure_level"); err == nil && (n == 1 || n == 2 || n == 4) {
		level := int(n)
		load.MemoryPressure = &level
	}
	var wg sync.WaitGroup
	tool := func(use func([]byte), name string, args ...string) { // use sets fields of its own
		wg.Go(func() {
			if out, err := m.run(ctx, name, args...); err == nil {
				use(out)
			}
		})
	}
	tool(func(b []byte) {
		gpu := parseAccelerator(b)
		load.GPUPercent, load.GPUMemoryBytes = gpu.busyPercent, gpu.memoryBytes
	}, "/usr/sbin/ioreg", "-rc", "AGXAccelerator", "-d1", "-w0")
	tool(func(b []byte) { load.MemoryFreeBytes = parseVMStat(b) }, "/usr/bin/vm_stat")
	tool(func(b []byte) { load.Thermal = parseThermal(b) }, "/usr/bin/notifyutil", "-g", thermalKey)
	if !m.hasNoBattery {
		tool(func(b []byte) {
			load.PowerWatts, m.hasNoBattery = parseBattery(b), len(bytes.TrimSpace(b)) == 0
		}, "/usr/sbin/ioreg", "-rn", "AppleSmartBattery", "-d1", "-w0")
	}
	// The first line that iostat prints is the average since the start; the second is the last second.
	tool(func(b []byte) { load.CPUPercent = parseIOStat(b) }, "/usr/sbin/iostat", "-c", "2", "-w", "1", "-n", "0")
	wg.Wait()
	return load
}

func (m *macos) hardwareID(ctx context.Context) (string, error) {
	out, err := m.run(ctx, "/usr/sbin/ioreg", "-rd1", "-c", "IOPlatformExpertDevice")
	if err != nil {
		return "", err
	}
	id := parsePlatformUUID(out)
	if id == "" {
		return "", errors.New("ioreg names no IOPlatformUUID")
	}
	return id, nil
}

func (m *macos) gpuLimit() int64 {
	mib, err := m.number("iogpu.wired_limit_mb")
	if err != nil || mib >= unlimited>>20 {
		return 0
	}
	return int64(mib) << 20
}
