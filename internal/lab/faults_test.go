package lab_test

import (
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/mlxctl/mlxctl/internal/lab"
)

// Every fault shows the symptom of the real one, and nothing of it is left when it is mended. Each has a host to itself.
func TestFaults(t *testing.T) {
	t.Parallel()
	tests := map[string]func(stage){
		"link down":            linkDown,
		"one way":              oneWay,
		"local network denied": denied,
		"multicast filtered":   filtered,
		"loss":                 loss,
		"slow":                 slow,
		"address":              address,
		"full disk":            fullDisk,
		"clock":                clock,
		"no ssh":               noSSH,
		"host key":             hostKey,
		"sudo":                 sudo,
		"frozen":               frozen,
		"power":                power,
	}
	l := lab.New(t, lab.Options{Hosts: len(tests)})
	t.Run("each", func(t *testing.T) {
		i := 0
		for name, test := range tests {
			h := l.Hosts[i]
			i++
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				test(stage{t, l, h})
			})
		}
	})
}

// stage is where a fault is shown.
type stage struct {
	*testing.T

	lab  *lab.Lab
	host *lab.Host // to be broken
}

// fault fails the test when a fault could not be made.
func fault(t *testing.T) func(lab.Mend, error) lab.Mend {
	t.Helper()
	return func(m lab.Mend, err error) lab.Mend {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
}

func mend(t *testing.T, m lab.Mend) {
	t.Helper()
	if err := m(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// reaches checks how a connection to the host's sshd goes.
func reaches(t *testing.T, from, to *lab.Host, want string) {
	t.Helper()
	patience := 20 * time.Second // the machine may be busy
	if want == "timeout" {
		patience = time.Second
	}
	if got, took := dial(t, from, to.IP().String(), 22, patience); got != want {
		t.Errorf("from %s to %s: %s after %v, want %s", from.Name, to.Name, got, took, want)
	}
}

func linkDown(s stage) {
	t, l, h := s.T, s.lab, s.host
	m := fault(t)(h.LinkDown(t.Context()))
	reaches(t, l.Operator, h, "timeout")
	reaches(t, h, l.Operator, "timeout")
	mend(t, m)
	eventually(t, "link is up", func() bool {
		got, _ := dial(t, l.Operator, h.IP().String(), 22, time.Second)
		return got == "connected"
	})
	reaches(t, h, l.Operator, "connected")
}

func oneWay(s stage) {
	t, l, h := s.T, s.lab, s.host
	for _, d := range []lab.Direction{lab.Incoming, lab.Outgoing} {
		m := fault(t)(h.OneWayDrop(t.Context(), d))
		reaches(t, l.Operator, h, "timeout")
		reaches(t, h, h, "connected")
		mend(t, m)
		reaches(t, l.Operator, h, "connected")
	}
}

func denied(s stage) {
	t, l, h := s.T, s.lab, s.host
	m := fault(t)(h.LocalNetworkDenied(t.Context()))
	best := time.Hour // of several, for this machine may be busy
	for range 5 {
		got, took := dial(t, h, l.Operator.IP().String(), 22, 20*time.Second)
		if got != "EHOSTUNREACH" {
			t.Errorf("dialled: %s after %v", got, took)
		}
		best = min(best, took)
	}
	if best > time.Second { // of a host that does not answer it would be 3 s
		t.Errorf("it took %v to be denied", best)
	}
	reaches(t, h, h, "connected")
	if got, _ := dial(t, h, "127.0.0.1", 22, 20*time.Second); got != "connected" {
		t.Errorf("loopback: %s", got)
	}
	if out, err := l.SSH(t.Context(), h, "echo in"); err != nil || string(out) != "in\n" {
		t.Errorf("from outside: %q, %v", out, err)
	}
	eventually(t, "its advert", func() bool { return slices.Contains(browse(t, l.Operator, "_ssh._tcp", time.Second), h.Label) })
	mend(t, m)
	reaches(t, h, l.Operator, "connected")
}

func filtered(s stage) {
	t, l, h := s.T, s.lab, s.host
	eventually(t, "its advert", func() bool { return slices.Contains(browse(t, l.Operator, "_ssh._tcp", time.Second), h.Label) })
	m := fault(t)(h.MulticastFiltered(t.Context()))
	var found []string
	eventually(t, "adverts of the others", func() bool {
		found = browse(t, l.Operator, "_ssh._tcp", 2*time.Second)
		return len(found) >= 2
	})
	if slices.Contains(found, h.Label) {
		t.Errorf("found although filtered: %q", found)
	}
	reaches(t, l.Operator, h, "connected")
	reaches(t, h, l.Operator, "connected")
	mend(t, m)
	eventually(t, "its advert again", func() bool { return slices.Contains(browse(t, l.Operator, "_ssh._tcp", time.Second), h.Label) })
}

// received counts how many of 200 datagrams arrive.
func received(t *testing.T, from, to *lab.Host) int {
	t.Helper()
	script := `import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("0.0.0.0", 9999))
print("ready", flush=True)
s.settimeout(60)
n = 0
while s.recv(100) == b"x":
    n += 1
print(n)`
	cmd := to.Command(t.Context(), to.User, "python3", "-c", script)
	var out strings.Builder
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "receiver listens", func() bool {
		return exe(t, to, "root", "sh", "-c", "grep -c ':270F' /proc/net/udp || true") == "1"
	})
	exe(t, from, from.User, "python3", "-c", `import socket, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for text in [b"x"] * 200 + [b"end"] * 60:
    s.sendto(text, (sys.argv[1], 9999))
    time.sleep(0.001)`, to.IP().String())
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	_, count, _ := strings.Cut(strings.TrimSpace(out.String()), "\n")
	n, err := strconv.Atoi(count)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func loss(s stage) {
	t, l, h := s.T, s.lab, s.host
	if n := received(t, l.Operator, h); n != 200 {
		t.Errorf("%d of 200 arrive on a whole link", n)
	}
	m := fault(t)(h.Loss(t.Context(), 0.5))
	// Of 200 fair throws 60 to 140 are heads, but once in a hundred million times.
	if n := received(t, l.Operator, h); n < 60 || n > 140 {
		t.Errorf("%d of 200 arrive where half is lost", n)
	}
	mend(t, m)
	if n := received(t, l.Operator, h); n != 200 {
		t.Errorf("%d of 200 arrive on a mended link", n)
	}
}

func slow(s stage) {
	t, l, h := s.T, s.lab, s.host
	took := func(command string) time.Duration {
		start := time.Now()
		if _, err := l.SSH(t.Context(), h, command); err != nil {
			t.Fatal(err)
		}
		return time.Since(start)
	}
	const load = "head -c 1000000 /dev/zero"
	m := fault(t)(h.Slow(t.Context(), 2_000_000))
	if d := took(load); d < 3900*time.Millisecond { // 8 Mbit at 2 Mbit a second, less the burst
		t.Errorf("from the host: only %v", d)
	}
	mend(t, m)
	eventually(t, "it is fast again", func() bool { return took(load) < 3900*time.Millisecond })
}

func address(s stage) {
	t, l, h := s.T, s.lab, s.host
	old := h.IP()
	if err := h.ChangeAddress(t.Context()); err != nil {
		t.Fatal(err)
	}
	if h.IP() == old {
		t.Fatal("same address")
	}
	reaches(t, l.Operator, h, "connected")
	if got, _ := dial(t, l.Operator, old.String(), 22, time.Second); got == "connected" {
		t.Error("the old address answers")
	}
}

func fullDisk(s stage) {
	t, h := s.T, s.host
	m := fault(t)(h.FullDisk(t.Context(), 1<<20))
	_, err := h.Exec(t.Context(), h.User, "dd", "if=/dev/zero", "of=big", "bs=1M", "count=8")
	if err == nil || !strings.Contains(err.Error(), "No space left on device") {
		t.Errorf("8 MiB on a disk with one free: %v", err)
	}
	free, err := strconv.Atoi(strings.Fields(exe(t, h, h.User, "df", "-k", "--output=avail", "."))[1])
	if err != nil || free > 1<<10 {
		t.Errorf("df says that %d KiB are free", free)
	}
	mend(t, m)
	exe(t, h, h.User, "dd", "if=/dev/zero", "of=big", "bs=1M", "count=8")
}

func clock(s stage) {
	t, l, h := s.T, s.lab, s.host
	off := func() time.Duration {
		out, err := l.SSH(t.Context(), h, "date +%s")
		if err != nil {
			t.Fatal(err)
		}
		at, err := strconv.ParseInt(strings.TrimSpace(string(out)), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return time.Until(time.Unix(at, 0)).Round(time.Minute)
	}
	for _, d := range []time.Duration{3 * time.Hour, -48 * time.Hour} {
		m := fault(t)(h.WrongClock(t.Context(), d))
		if got := off(); got != d {
			t.Errorf("off by %v, want %v", got, d)
		}
		mend(t, m)
		if got := off(); got != 0 {
			t.Errorf("mended: off by %v", got)
		}
	}
}

func noSSH(s stage) {
	t, l, h := s.T, s.lab, s.host
	m := fault(t)(h.NoSSH(t.Context()))
	reaches(t, l.Operator, h, "ECONNREFUSED")
	eventually(t, "its advert of ssh gone", func() bool {
		return !slices.Contains(browse(t, l.Operator, "_ssh._tcp", time.Second), h.Label) &&
			slices.Contains(browse(t, l.Operator, "_airplay._tcp", time.Second), h.Label)
	})
	mend(t, m)
	reaches(t, l.Operator, h, "connected")
	eventually(t, "its advert of ssh", func() bool { return slices.Contains(browse(t, l.Operator, "_ssh._tcp", time.Second), h.Label) })
}

func hostKey(s stage) {
	t, l, h := s.T, s.lab, s.host
	ssh := func() error {
		_, err := l.Operator.Exec(t.Context(), l.Operator.User, "ssh", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=accept-new",
			"-o", "UserKnownHostsFile=~/known-"+h.Name, h.IP().String(), "true")
		return err
	}
	if err := ssh(); err != nil {
		t.Fatal(err)
	}
	if err := h.NewHostKey(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := ssh(); err == nil || !strings.Contains(err.Error(), "REMOTE HOST IDENTIFICATION HAS CHANGED") {
		t.Errorf("another key: %v", err)
	}
}

func sudo(s stage) {
	t, l, h := s.T, s.lab, s.host
	const try = "sudo -n true"
	m := fault(t)(h.NoSudo(t.Context()))
	if _, err := l.SSH(t.Context(), h, try); err == nil {
		t.Error("sudo works although it may not")
	}
	if _, err := l.SSH(t.Context(), h, "echo secret | sudo -S true"); err == nil || !strings.Contains(err.Error(), "incorrect password") && !strings.Contains(err.Error(), "not in the sudoers") {
		t.Errorf("nobody in sudoers: %v", err)
	}
	mend(t, m)
	if _, err := l.SSH(t.Context(), h, try); err != nil {
		t.Error(err)
	}
	m = fault(t)(h.SudoPassword(t.Context(), "s3cret: 'word'"))
	if _, err := l.SSH(t.Context(), h, try); err == nil || !strings.Contains(err.Error(), "a password is required") {
		t.Errorf("without the password: %v", err)
	}
	if _, err := l.SSH(t.Context(), h, "echo wrong | sudo -S -p '' -k true"); err == nil {
		t.Error("any password will do")
	}
	if out, err := l.SSH(t.Context(), h, `echo "s3cret: 'word'" | sudo -S -p '' -k id -un`); err != nil || string(out) != "root\n" {
		t.Errorf("with the password: %q, %v", out, err)
	}
	mend(t, m)
	if _, err := l.SSH(t.Context(), h, try); err != nil {
		t.Error(err)
	}
}

func frozen(s stage) {
	t, l, h := s.T, s.lab, s.host
	cmd := h.Command(t.Context(), h.User, "sleep", "10")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it runs", func() bool { return len(h.PIDs("sleep")) == 1 })
	if n, err := h.Freeze(t.Context(), "sleep"); n != 1 || err != nil {
		t.Fatalf("froze %d, %v", n, err)
	}
	reaches(t, l.Operator, h, "connected")
	if err := h.Thaw(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("the process that was thawed: %v", err)
	}
	if n, err := h.Freeze(t.Context()); n < 6 || err != nil { // init, runit's, sshd, avahi
		t.Fatalf("froze %d, %v", n, err)
	}
	reaches(t, l.Operator, h, "connected") // by the kernel
	if _, err := l.Operator.Exec(t.Context(), "root", "timeout", "2", "ssh", h.User+"@"+h.IP().String()); err == nil || !strings.Contains(err.Error(), "124") {
		t.Errorf("a frozen host answers: %v", err)
	}
	if err := h.Thaw(); err != nil {
		t.Fatal(err)
	}
	if _, err := l.SSH(t.Context(), h, "true"); err != nil {
		t.Errorf("thawed: %v", err)
	}
}

func power(s stage) {
	t, l, h := s.T, s.lab, s.host
	if err := h.PowerOff(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, _ := dial(t, l.Operator, h.IP().String(), 22, time.Second); got != "timeout" && got != "EHOSTUNREACH" {
		t.Errorf("a dead host: %s", got)
	}
	if err := h.Reboot(t.Context()); err != nil {
		t.Fatal(err)
	}
	reaches(t, l.Operator, h, "connected")
}
