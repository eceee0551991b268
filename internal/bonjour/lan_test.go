package bonjour_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

var lans atomic.Int32

// lanTest is a few hosts on one or two networks, each a namespace. The switches are in one of their own, so that the
// machine itself has nothing of it.
type lanTest struct {
	t      *testing.T
	prefix string
}

// machine is one host of it.
type machine struct {
	lan  *lanTest
	name string
	ns   string
}

// newLAN makes the networks 10.88.0.0/24 and 10.99.0.0/24.
func newLAN(t *testing.T) *lanTest {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: real multicast needs root, for network namespaces")
	}
	for _, tool := range []string{"ip", "iptables", "unshare", "avahi-daemon"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("%s is missing; scripts/deps.sh installs it", tool)
		}
	}
	l := &lanTest{t: t, prefix: fmt.Sprintf("bj%d-%d-", os.Getpid(), lans.Add(1))}
	l.namespace("switch")
	for _, bridge := range []string{"br0", "br1"} {
		l.run("ip", "-n", l.prefix+"switch", "link", "add", bridge, "type", "bridge", "mcast_snooping", "0")
		l.run("ip", "-n", l.prefix+"switch", "link", "set", bridge, "up")
	}
	return l
}

func (l *lanTest) run(args ...string) string {
	l.t.Helper()
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		l.t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func (l *lanTest) namespace(name string) string {
	ns := l.prefix + name
	l.run("ip", "netns", "add", ns)
	l.t.Cleanup(func() { l.run("ip", "netns", "del", ns) })
	return ns
}

// machine makes a host with an interface for each address; the first is on the first network, and so on.
func (l *lanTest) machine(name string, interfaces []string, addresses ...string) *machine {
	l.t.Helper()
	m := &machine{lan: l, name: name, ns: l.namespace(name)}
	m.run("sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0", "net.ipv6.conf.all.accept_dad=0") // addresses at once
	m.ip("link", "set", "lo", "up")
	for i, address := range addresses {
		far := fmt.Sprintf("%s%d", name, i)
		l.run("ip", "-n", l.prefix+"switch", "link", "add", far, "type", "veth", "peer", "name", interfaces[i], "netns", m.ns)
		l.run("ip", "-n", l.prefix+"switch", "link", "set", far, "master", fmt.Sprintf("br%d", i), "up")
		m.ip("link", "set", interfaces[i], "up")
		m.ip("addr", "add", address+"/24", "dev", interfaces[i])
	}
	return m
}

func (m *machine) ip(args ...string) { m.lan.run(append([]string{"ip", "-n", m.ns}, args...)...) }

func (m *machine) run(args ...string) string {
	m.lan.t.Helper()
	return m.lan.run(append([]string{"ip", "netns", "exec", m.ns}, args...)...)
}

// linkLocal is the address of an interface that works on it alone.
func (m *machine) linkLocal(device string) netip.Addr {
	m.lan.t.Helper()
	fields := strings.Fields(m.run("ip", "-o", "-6", "addr", "show", "dev", device, "scope", "link"))
	for i, f := range fields {
		if f == "inet6" {
			return netip.MustParsePrefix(fields[i+1]).Addr()
		}
	}
	m.lan.t.Fatalf("%s has no link-local address on %s", m.name, device)
	return netip.Addr{}
}

// deaf takes multicast away, as many a wireless network does.
func (m *machine) deaf() {
	m.run("iptables", "-A", "INPUT", "-d", "224.0.0.0/4", "-j", "DROP")
	m.run("ip6tables", "-A", "INPUT", "-d", "ff00::/8", "-p", "udp", "-j", "DROP")
}

// program is this test binary as one of the helpers, on the host.
func (m *machine) program(what string, args ...string) *exec.Cmd {
	exe, err := os.Executable()
	if err != nil {
		m.lan.t.Fatal(err)
	}
	cmd := exec.Command("ip", append([]string{"netns", "exec", m.ns, exe}, args...)...)
	cmd.Env = append(os.Environ(), helperVariable+"="+what)
	return cmd
}

// ask runs a helper to its end and reads what it prints.
func (m *machine) ask(into any, what string, args ...string) {
	m.lan.t.Helper()
	cmd := m.program(what, args...)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		m.lan.t.Fatalf("%s: %v\n%s", what, err, errOut.String())
	}
	if err := json.Unmarshal(out.Bytes(), into); err != nil {
		m.lan.t.Fatalf("%s printed %q: %v", what, out.String(), err)
	}
}

func (m *machine) scan() scanned {
	m.lan.t.Helper()
	var s scanned
	m.ask(&s, "scan")
	return s
}

// start runs a helper until the test ends.
func (m *machine) start(what string, args ...string) {
	m.lan.t.Helper()
	cmd := m.program(what, args...)
	cmd.Stderr = m.lan.t.Output()
	stdin, err := cmd.StdinPipe()
	if err != nil {
		m.lan.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		m.lan.t.Fatal(err)
	}
	m.lan.t.Cleanup(func() {
		_ = stdin.Close()
		if err := cmd.Wait(); err != nil {
			m.lan.t.Errorf("%s: %v", what, err)
		}
	})
}

// service is one that Avahi is to advertise.
type service struct {
	kind string
	port int
	text []string
}

const avahiConf = `[server]
host-name=%s
use-ipv4=yes
use-ipv6=yes
enable-dbus=no
ratelimit-burst=1000
[wide-area]
enable-wide-area=no
[publish]
publish-workstation=%s
publish-hinfo=no
[reflector]
[rlimits]
`

// avahi runs a real responder on the host, and returns once it has established name.
func (m *machine) avahi(hostName, name string, services ...service) {
	t := m.lan.t
	t.Helper()
	dir := t.TempDir()
	workstation := "no"
	if len(services) == 0 {
		workstation = "yes"
	}
	m.write(filepath.Join(dir, "avahi-daemon.conf"), fmt.Sprintf(avahiConf, hostName, workstation))
	var group strings.Builder
	group.WriteString("<?xml version=\"1.0\" standalone='no'?><!DOCTYPE service-group SYSTEM \"avahi-service.dtd\"><service-group><name>" + name + "</name>")
	for _, s := range services {
		fmt.Fprintf(&group, "<service><type>%s</type><port>%d</port>", s.kind, s.port)
		for _, text := range s.text {
			group.WriteString("<txt-record>" + text + "</txt-record>")
		}
		group.WriteString("</service>")
	}
	group.WriteString("</service-group>")
	if len(services) > 0 {
		m.write(filepath.Join(dir, "services", "mac.service"), group.String())
	} else if err := os.MkdirAll(filepath.Join(dir, "services"), 0o755); err != nil {
		t.Fatal(err)
	}
	script := `hostname "$1" && mount --bind "$2/services" /etc/avahi/services && mount -t tmpfs tmpfs /run && mkdir /run/avahi-daemon &&
		exec avahi-daemon --no-drop-root --no-chroot --no-rlimits -f "$2/avahi-daemon.conf"`
	cmd := exec.Command("ip", "netns", "exec", m.ns, "unshare", "--uts", "--mount", "sh", "-c", script, "sh", hostName, dir)
	out, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := make(chan string, 256)
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		for range lines { // so that its reader ends
		}
		_ = cmd.Wait()
	})
	go func() {
		defer close(lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			lines <- s.Text()
		}
	}()
	deadline := time.After(time.Minute)
	want := "successfully established"
	if len(services) == 0 {
		want = "Server startup complete"
	}
	var seen []string
	for {
		select {
		case line, ok := <-lines:
			seen = append(seen, line)
			if strings.Contains(line, want) {
				return
			}
			if !ok {
				t.Fatalf("avahi-daemon ended:\n%s", strings.Join(seen, "\n"))
			}
		case <-deadline:
			t.Fatalf("avahi-daemon was not ready after a minute:\n%s", strings.Join(seen, "\n"))
		}
	}
}

func (m *machine) write(path, text string) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		m.lan.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		m.lan.t.Fatal(err)
	}
}
