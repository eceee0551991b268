package hwmon

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// machine makes a root folder with the files of a Linux machine. An empty text leaves a file out.
func machine(t *testing.T, more map[string]string) *procfs {
	t.Helper()
	files := map[string]string{
		"proc/meminfo":   "MemTotal:       16000000 kB\nMemFree:         1000000 kB\nMemAvailable:    8000000 kB\nHugePages_Total:       0\n",
		"proc/cpuinfo":   "processor\t: 0\nvendor_id\t: GenuineIntel\nmodel name\t: Some CPU @ 3.00GHz\n\nprocessor\t: 1\nmodel name\t: Another\n",
		"proc/stat":      "cpu  100 0 100 800 0 0 0 0 0 0\ncpu0 50 0 50 400 0 0 0 0 0 0\nintr 1\n",
		"etc/os-release": "NAME=\"Debian GNU/Linux\"\nPRETTY_NAME=\"Debian GNU/Linux 13 (trixie)\"\n",
		"etc/machine-id": "0123456789abcdef0123456789abcdef\n",
		"sys/devices/virtual/dmi/id/product_name": "Desk 1\n",
	}
	maps.Copy(files, more)
	p := &procfs{root: t.TempDir()}
	for name, text := range files {
		if text != "" {
			put(t, p, name, text)
		}
	}
	return p
}

func put(t *testing.T, p *procfs, name, text string) {
	t.Helper()
	path := filepath.Join(p.root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

const kb = 1 << 10

func TestLinux(t *testing.T) {
	t.Parallel()
	p := machine(t, nil)
	hw := p.hardware(t.Context())
	if hw.OS != "linux" || hw.Chip != "Some CPU @ 3.00GHz" || hw.Model != "Desk 1" || hw.MemoryBytes != 16000000*kb ||
		hw.OSVersion != "Debian GNU/Linux 13 (trixie)" || hw.GPUCores != 0 || hw.CPUs < 1 {
		t.Errorf("hardware is %+v", hw)
	}
	first := p.load(t.Context())
	is(t, "free memory", first.MemoryFreeBytes, 8000000*kb)
	if first.CPUPercent != nil {
		t.Errorf("CPU of %v %% from one reading", *first.CPUPercent)
	}
	// Of 400 ticks since, 100 were busy, 100 waited for a disk and 200 were idle; guest time is in user time already.
	put(t, p, "proc/stat", "cpu  150 0 150 1000 100 0 0 0 50 0\n")
	second := p.load(t.Context())
	is(t, "CPU", second.CPUPercent, 25)
	if second.GPUPercent != nil || second.GPUMemoryBytes != nil || second.MemoryPressure != nil || second.PowerWatts != nil || second.Thermal != nil {
		t.Errorf("readings out of nowhere: %+v", second)
	}
	if id, err := p.hardwareID(t.Context()); err != nil || id != "0123456789abcdef0123456789abcdef" {
		t.Errorf("hardware id is %q, %v", id, err)
	}
}

func TestLinuxWithoutFiles(t *testing.T) {
	t.Parallel()
	p := &procfs{root: t.TempDir()}
	hw := p.hardware(t.Context())
	if hw.Chip != "" || hw.Model != "" || hw.MemoryBytes != 0 || hw.OSVersion != "" {
		t.Errorf("hardware is %+v", hw)
	}
	for range 2 {
		if l := p.load(t.Context()); l.MemoryFreeBytes != nil || l.CPUPercent != nil {
			t.Errorf("load is %+v", l)
		}
	}
	if id, err := p.hardwareID(t.Context()); err == nil {
		t.Errorf("hardware id is %q", id)
	}
}

func TestLinuxHardwareID(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"\n", "uninitialized\n", "two words\n", "a\x01b\n", strings.Repeat("a", 200)} {
		if id, err := machine(t, map[string]string{"etc/machine-id": text}).hardwareID(t.Context()); err == nil {
			t.Errorf("%.20q: got %q", text, id)
		}
	}
}

func TestLinuxGarbage(t *testing.T) {
	t.Parallel()
	p := machine(t, map[string]string{
		"proc/meminfo": "MemTotal: many kB\nMemAvailable: -5 kB\nMemTotal\nMemTotal: 12 MB\n", "proc/stat": "cpu  1 2 x 4 5\n",
		"proc/cpuinfo": "model name\n", "etc/os-release": "PRETTY_NAME\n",
	})
	hw, l := p.hardware(t.Context()), p.load(t.Context())
	if hw.MemoryBytes != 0 || hw.Chip != "" || hw.OSVersion != "" || l.MemoryFreeBytes != nil || l.CPUPercent != nil {
		t.Errorf("hardware is %+v, load is %+v", hw, l)
	}
}

// A counter that goes back, as after a restore of a virtual machine, gives no share.
func TestLinuxCPUCountersGoBack(t *testing.T) {
	t.Parallel()
	p := machine(t, nil)
	p.load(t.Context())
	for _, text := range []string{"cpu  100 0 100 800 0 0 0 0 0 0\n", "cpu  50 0 50 400 0 0 0 0\n", "cpu  10 0 10 9000 0 0 0 0\n"} {
		put(t, p, "proc/stat", text)
		if l := p.load(t.Context()); l.CPUPercent != nil {
			t.Errorf("%q: got %v", text, *l.CPUPercent)
		}
	}
}

func TestControlGroups(t *testing.T) {
	t.Parallel()
	const total, free = 16000000 * kb, 8000000 * kb
	const gb = int64(1) << 30
	for name, c := range map[string]struct {
		files        map[string]string
		memory, left int64
	}{
		"none":              {nil, total, free},
		"without limit":     {map[string]string{"proc/self/cgroup": "0::/app\n", "sys/fs/cgroup/app/memory.max": "max\n"}, total, free},
		"limit is not read": {map[string]string{"proc/self/cgroup": "0::/app\n"}, total, free},
		"version 2": {map[string]string{
			"proc/self/cgroup": "0::/app\n", "sys/fs/cgroup/app/memory.max": "4294967296\n",
			"sys/fs/cgroup/app/memory.current": "2147483648\n", "sys/fs/cgroup/app/memory.stat": "anon 5\ninactive_file 1073741824\n",
		}, 4 * gb, 3 * gb},
		"version 2 in a container": {map[string]string{
			"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "4294967296\n", "sys/fs/cgroup/memory.current": "1073741824\n",
		}, 4 * gb, 3 * gb},
		"the parent is tighter": {map[string]string{
			"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/memory.max": "4294967296\n", "sys/fs/cgroup/a/b/memory.current": "0\n",
			"sys/fs/cgroup/a/memory.max": "2147483648\n", "sys/fs/cgroup/a/memory.current": "1073741824\n",
		}, 2 * gb, gb},
		"the parent is wider, but full": {map[string]string{
			"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/memory.max": "2147483648\n", "sys/fs/cgroup/a/b/memory.current": "0\n",
			"sys/fs/cgroup/a/memory.max": "4294967296\n", "sys/fs/cgroup/a/memory.current": "3221225472\n",
		}, 2 * gb, gb},
		"the parent has more left": {map[string]string{
			"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/memory.max": "4294967296\n", "sys/fs/cgroup/a/b/memory.current": "3221225472\n",
			"sys/fs/cgroup/a/memory.max": "6442450944\n", "sys/fs/cgroup/a/memory.current": "3221225472\n",
		}, 4 * gb, gb},
		"a part of a host's path": {map[string]string{
			"proc/self/cgroup": "0::/system.slice/docker-1.scope\n", "sys/fs/cgroup/memory.max": "4294967296\n",
			"sys/fs/cgroup/memory.current": "4294967296\n",
		}, 4 * gb, 0},
		"what is used is not said": {map[string]string{"proc/self/cgroup": "0::/app\n", "sys/fs/cgroup/app/memory.max": "4294967296\n"}, 4 * gb, free},
		"wider than the machine":   {map[string]string{"proc/self/cgroup": "0::/app\n", "sys/fs/cgroup/app/memory.max": "99999999999999\n"}, total, free},
		"version 1": {map[string]string{
			"proc/self/cgroup": "9:cpu,cpuacct:/app\n5:memory:/app\n",
			"sys/fs/cgroup/memory/app/memory.limit_in_bytes": "4294967296\n", "sys/fs/cgroup/memory/app/memory.usage_in_bytes": "3221225472\n",
			"sys/fs/cgroup/memory/app/memory.stat": "inactive_file 1\ntotal_inactive_file 1073741824\n",
		}, 4 * gb, 2 * gb},
		"version 1 without limit": {map[string]string{
			"proc/self/cgroup": "5:memory:/app\n", "sys/fs/cgroup/memory/app/memory.limit_in_bytes": "9223372036854771712\n",
		}, total, free},
		"both versions": {map[string]string{
			"proc/self/cgroup": "5:memory:/app\n0::/app\n", "sys/fs/cgroup/memory/app/memory.limit_in_bytes": "4294967296\n",
			"sys/fs/cgroup/app/memory.max": "2147483648\n",
		}, 2 * gb, free},
		"a path that climbs": {map[string]string{
			"proc/self/cgroup": "0::/../../../etc\n", "etc/memory.max": "1\n",
		}, total, free},
		"nonsense": {map[string]string{"proc/self/cgroup": "x\n0:\n0::/a\n", "sys/fs/cgroup/a/memory.max": "-5\n"}, total, free},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := machine(t, c.files)
			if got := p.hardware(t.Context()).MemoryBytes; got != c.memory {
				t.Errorf("memory is %d, want %d", got, c.memory)
			}
			is(t, "free memory", p.load(t.Context()).MemoryFreeBytes, c.left)
		})
	}
}
