package hwmon

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The texts of this file follow the manual pages and public listings of macOS tools; they were not recorded on a Mac
// of ours. What they print in another shape reads as absent, never as a wrong number.
const (
	// ioreg -rc AGXAccelerator -d1 -w0
	ioregAGX = `+-o AGXAcceleratorG16S  <class AGXAcceleratorG16S, id 0x1000003e0, registered, matched, active, busy 0 (2 ms), retain 99>
    {
      "IOClass" = "AGXAcceleratorG16S"
      "GPUConfigurationVariable" = {"num_gps"=10,"gpu_gen"=16,"usc_gen"=3,"num_cores"=20,"num_mgpus"=2}
      "model" = "Apple M4 Pro"
      "PerformanceStatistics" = {"In use system memory (driver)"=0,"Alloc system memory"=9231777792,"Tiler Utilization %"=7,"recoveryCount"=0,"Renderer Utilization %"=9,"TiledSceneBytes"=1114112,"Device Utilization %"=37,"In use system memory"=4295426048,"SplitSceneCount"=0,"Allocated PB Size"=35651584,"lastRecoveryTime"=0}
      "gpu-core-count" = 20
    }

`
	// ioreg -rd1 -c IOPlatformExpertDevice
	ioregPlatform = `+-o J773sAP  <class IOPlatformExpertDevice, id 0x100000114, registered, matched, active, busy 0 (31142 ms), retain 40>
    {
      "manufacturer" = <"Apple Inc.">
      "IOPlatformUUID" = "0A1B2C3D-1111-5222-8333-444455556666"
      "model" = <"Mac16,11">
      "IOPlatformSerialNumber" = "XXXXXXXXXX"
    }
`
	vmStat = `Mach Virtual Memory Statistics: (page size of 16384 bytes)
Pages free:                              100000.
Pages active:                            500000.
Pages inactive:                           20000.
Pages speculative:                         3000.
Pages throttled:                              0.
Pages wired down:                        150000.
Pages purgeable:                           5000.
"Translation faults":                 123456789.
Pages copy-on-write:                    1234567.
File-backed pages:                       200000.
Swapins:                                      0.
`
	// iostat -c 2 -w 1 -n 0
	ioStat = `      cpu    load average
 us sy id   1m   5m   15m
  9  5 86  2.10 2.20 2.30
 20 11 69  2.10 2.20 2.30
`
	thermalFair = "com.apple.system.thermalpressurelevel 1\n"
)

// fakeMac is a Mac whose tools print known texts.
func fakeMac(tools map[string]string) *macos {
	var mu sync.Mutex
	return &macos{
		text: func(name string) (string, error) {
			switch name {
			case "machdep.cpu.brand_string":
				return "Apple M4 Pro", nil
			case "hw.model":
				return "Mac16,11", nil
			case "kern.osproductversion":
				return "26.1", nil
			}
			return "", errors.New("no such variable")
		},
		number: func(name string) (uint64, error) {
			switch name {
			case "hw.memsize":
				return 48 << 30, nil
			case "kern.memorystatus_vm_pressure_level":
				return 2, nil
			}
			return 0, errors.New("no such variable")
		},
		run: func(_ context.Context, name string, args ...string) ([]byte, error) {
			mu.Lock()
			defer mu.Unlock()
			key := filepath.Base(name)
			if slices.Contains(args, "IOPlatformExpertDevice") {
				key = "platform"
			} else if slices.Contains(args, "AppleSmartBattery") {
				key = "battery"
			}
			out, ok := tools[key]
			if !ok || !filepath.IsAbs(name) {
				return nil, os.ErrNotExist
			}
			return []byte(out), nil
		},
	}
}

func TestMac(t *testing.T) {
	t.Parallel()
	m := fakeMac(map[string]string{
		"ioreg": ioregAGX, "platform": ioregPlatform, "vm_stat": vmStat, "iostat": ioStat, "notifyutil": thermalFair,
	})
	hw := m.hardware(t.Context())
	if hw.OS != "darwin" || hw.Chip != "Apple M4 Pro" || hw.Model != "Mac16,11" || hw.OSVersion != "26.1" ||
		hw.GPUCores != 20 || hw.MemoryBytes != 48<<30 || hw.CPUs < 1 {
		t.Errorf("hardware is %+v", hw)
	}
	l := m.load(t.Context())
	is(t, "free memory", l.MemoryFreeBytes, 123000*16384)
	is(t, "memory pressure", l.MemoryPressure, 2)
	is(t, "CPU", l.CPUPercent, 31)
	is(t, "GPU", l.GPUPercent, 37)
	is(t, "GPU memory", l.GPUMemoryBytes, 4295426048)
	is(t, "thermal state", l.Thermal, "fair")
	if l.PowerWatts != nil {
		t.Errorf("power of %v W out of nowhere", *l.PowerWatts)
	}
	if id, err := m.hardwareID(t.Context()); err != nil || id != "0A1B2C3D-1111-5222-8333-444455556666" {
		t.Errorf("hardware id is %q, %v", id, err)
	}
}

func is[T comparable](t *testing.T, what string, got *T, want T) {
	t.Helper()
	if got == nil {
		t.Errorf("%s is absent, want %v", what, want)
	} else if *got != want {
		t.Errorf("%s is %v, want %v", what, *got, want)
	}
}

// What a Mac does not tell stays absent.
func TestMacWithoutTools(t *testing.T) {
	t.Parallel()
	m := fakeMac(nil)
	m.number = func(string) (uint64, error) { return 0, errors.New("no such variable") }
	m.text = func(string) (string, error) { return "", errors.New("no such variable") }
	hw := m.hardware(t.Context())
	if hw.Chip != "" || hw.Model != "" || hw.OSVersion != "" || hw.GPUCores != 0 || hw.MemoryBytes != 0 {
		t.Errorf("hardware is %+v", hw)
	}
	if l := m.load(t.Context()); l.MemoryFreeBytes != nil || l.MemoryPressure != nil || l.CPUPercent != nil ||
		l.GPUPercent != nil || l.GPUMemoryBytes != nil || l.PowerWatts != nil || l.Thermal != nil {
		t.Errorf("load is %+v", l)
	}
	if id, err := m.hardwareID(t.Context()); err == nil {
		t.Errorf("hardware id is %q", id)
	}
	if n := m.gpuLimit(); n != 0 {
		t.Errorf("GPU limit is %d", n)
	}
	if id, err := fakeMac(map[string]string{"platform": "+-o J773sAP\n{\n}\n"}).hardwareID(t.Context()); err == nil {
		t.Errorf("hardware id is %q", id)
	}
}

func TestMacGPULimit(t *testing.T) {
	t.Parallel()
	for mib, want := range map[uint64]int64{0: 0, 40960: 40 << 30, 1 << 63: 0, 1<<64 - 1: 0} {
		m := fakeMac(nil)
		m.number = func(name string) (uint64, error) {
			if name != "iogpu.wired_limit_mb" {
				return 0, errors.New("no such variable")
			}
			return mib, nil
		}
		if got := m.gpuLimit(); got != want {
			t.Errorf("limit of %d MiB: got %d, want %d", mib, got, want)
		}
		if got := m.hardware(t.Context()).GPULimitBytes; got != want {
			t.Errorf("hardware with a limit of %d MiB: got %d, want %d", mib, got, want)
		}
	}
}

func TestParseAccelerator(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		text  string
		cores int
		busy  bool
		bytes bool
	}{
		"nothing":            {"", 0, false, false},
		"only a near key":    {`"PerformanceStatistics" = {"In use system memory (driver)"=5,"Device Utilization % (old)"=3}`, 0, false, false},
		"statistics alone":   {`"PerformanceStatistics" = {"Device Utilization %"=0,"In use system memory"=0}`, 0, true, true},
		"spaces":             {`"PerformanceStatistics" = {"Device Utilization %" = 5}`, 0, true, false},
		"above 100 %":        {`"PerformanceStatistics" = {"Device Utilization %"=101}`, 0, false, false},
		"a negative number":  {`"PerformanceStatistics" = {"Device Utilization %"=-5,"In use system memory"=-1}`, 0, false, false},
		"beyond 64 bits":     {`"PerformanceStatistics" = {"In use system memory"=99999999999999999999}`, 0, false, false},
		"keys elsewhere":     {`"Other" = {"Device Utilization %"=5,"In use system memory"=7}`, 0, false, false},
		"no number of cores": {`"gpu-core-count" = <14000000>`, 0, false, false},
		"too many cores":     {`"gpu-core-count" = 5000`, 0, false, false},
		"cores":              {`"gpu-core-count" = 8`, 8, false, false},
	} {
		a := parseAccelerator([]byte(c.text))
		if a.cores != c.cores || (a.busyPercent != nil) != c.busy || (a.memoryBytes != nil) != c.bytes {
			t.Errorf("%s: got %+v", name, a)
		}
	}
}

func TestParsersRefuseWhatTheyDoNotKnow(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"", "garbage", strings.Replace(vmStat, "page size of 16384 bytes", "page size unknown", 1),
		strings.Replace(vmStat, "16384", "0", 1), strings.Replace(vmStat, "16384", "999999999", 1),
		strings.Replace(vmStat, "100000.", "-1.", 1), strings.Replace(vmStat, "100000.", "many", 1),
		strings.Replace(vmStat, "Pages speculative", "Pages speculated", 1),
		strings.Replace(vmStat, "100000.", "99999999999999999999.", 1),
	} {
		if got := parseVMStat([]byte(text)); got != nil {
			t.Errorf("vm_stat %.60q: got %d", text, *got)
		}
	}
	for _, text := range []string{
		"", "garbage", " us sy id   1m   5m   15m\n", "  9  5 86  2.10 2.20 2.30\n",
		" us sy id   1m   5m   15m\n  9  5 186  2.10 2.20 2.30\n", " us sy id   1m   5m   15m\n  9\n",
		" us sy id\n 1 2 x\n",
	} {
		if got := parseIOStat([]byte(text)); got != nil {
			t.Errorf("iostat %q: got %v", text, *got)
		}
	}
	for _, text := range []string{
		"", "garbage", "com.apple.system.thermalpressurelevel", "com.apple.system.thermalpressurelevel 9",
		"com.apple.system.thermalpressurelevel -1", "com.apple.other 1", "com.apple.system.thermalpressurelevel 1 2",
		"com.apple.system.thermalpressurelevel: Failed with code 1",
	} {
		if got := parseThermal([]byte(text)); got != nil {
			t.Errorf("notifyutil %q: got %v", text, *got)
		}
	}
	for _, text := range []string{
		"", `"IOPlatformUUID" = ""`, `"IOPlatformUUID" = "short"`, `"IOPlatformUUIDs" = "0A1B2C3D-1111-5222-8333-444455556666"`,
	} {
		if got := parsePlatformUUID([]byte(text)); got != "" {
			t.Errorf("ioreg %q: got %q", text, got)
		}
	}
}

// iostat may show disks before the CPU.
func TestParseIOStatWithDisks(t *testing.T) {
	t.Parallel()
	const text = `              disk0       cpu    load average
    KB/t  tps  MB/s  us sy id   1m   5m   15m
   20.50   12  0.24   4  3 93  1.50 1.60 1.70
    4.00    1  0.00  50 25 25  1.50 1.60 1.70
`
	is(t, "CPU", parseIOStat([]byte(text)), 75)
}

func TestParseThermal(t *testing.T) {
	t.Parallel()
	for n, want := range map[string]string{"0": "nominal", "1": "fair", "2": "serious", "3": "critical", "4": "critical"} {
		is(t, "level "+n, parseThermal([]byte(thermalKey+" "+n+"\n")), want)
	}
}
