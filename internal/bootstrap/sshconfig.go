package bootstrap

import (
	"bufio"
	"bytes"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unicode"

	"github.com/kevinburke/ssh_config"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/untrusted"
)

const sshPort = 22

// sshConfig is what the operator's ssh_config files say: the user's comes before the system's.
type sshConfig struct {
	files []*ssh_config.Config
	// skipped names what could not be understood; the openssh transport can.
	skipped string
}

func readSSHConfig(home string, log *slog.Logger) sshConfig {
	var c sshConfig
	for _, path := range []string{filepath.Join(home, ".ssh", "config"), "/etc/ssh/ssh_config"} {
		data, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		plain, dropped := withoutMatch(data)
		if dropped {
			c.skipped = path
		}
		f, err := ssh_config.Decode(bytes.NewReader(plain))
		if err != nil {
			log.Warn("ssh_config cannot be read", "path", path, "error", err)
			c.skipped = path
			continue
		}
		c.files = append(c.files, f)
	}
	return c
}

// withoutMatch drops Match blocks whose condition only ssh itself can decide.
func withoutMatch(data []byte) (kept []byte, dropped bool) {
	var out bytes.Buffer
	skip := false
	lines := bufio.NewScanner(bytes.NewReader(data))
	for lines.Scan() {
		line := lines.Text()
		fields := strings.FieldsFunc(strings.ToLower(line), func(r rune) bool { return unicode.IsSpace(r) || r == '=' })
		if len(fields) > 0 && (fields[0] == "host" || fields[0] == "match") {
			decidable := len(fields) > 1 && (fields[1] == "all" && len(fields) == 2 || fields[1] == "host" && len(fields) == 3)
			skip = fields[0] == "match" && !decidable
			dropped = dropped || skip
		}
		if !skip {
			out.WriteString(line + "\n")
		}
	}
	return out.Bytes(), dropped
}

func (c sshConfig) get(alias, key string) string {
	return strings.Trim(c.list(alias, key), `"`)
}

// list returns a value of several words, of which some may be in quotes.
func (c sshConfig) list(alias, key string) string {
	for _, f := range c.files {
		if v, err := f.Get(alias, key); err == nil && v != "" {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// words splits a list at its white space, but not within quotes.
func words(s string) []string {
	quoted := false
	return strings.FieldsFunc(s, func(r rune) bool {
		if r == '"' {
			quoted = !quoted
		}
		return r == '"' || !quoted && unicode.IsSpace(r)
	})
}

func (c sshConfig) all(alias, key string) []string {
	var out []string
	for _, f := range c.files {
		values, err := f.GetAll(alias, key)
		if err != nil {
			continue
		}
		for _, v := range values {
			out = append(out, strings.Trim(strings.TrimSpace(v), `"`))
		}
	}
	return out
}

// settings are how one target is reached.
type settings struct {
	label      string
	alias      string // what ssh would be given
	host       string // HostName
	addresses  []string
	port       int
	user       string
	isHeard    bool   // an advert named it, nobody else
	explicit   bool   // the target, not ssh_config, said the port or the user
	keyName    string // under which host keys are looked up
	identities []string
	onlyThose  bool
	agent      string // path of the agent's socket
	jump       string
	command    string // ProxyCommand
	knownFiles []string
}

// id is the same for targets that are reached the same way.
func (s *settings) id() string {
	return s.user + "@" + s.alias + ":" + strconv.Itoa(s.port) + " " + strings.Join(s.addresses, " ")
}

// keyAddress is the name that host keys are looked up by, with the port.
func (s *settings) keyAddress() string { return net.JoinHostPort(s.keyName, strconv.Itoa(s.port)) }

// candidates are the addresses to dial, with the port.
func (s *settings) candidates() []string {
	port := strconv.Itoa(s.port)
	var out []string
	seen := map[string]bool{"": true}
	for _, host := range append([]string{s.host}, s.addresses...) {
		if !seen[host] {
			seen[host] = true
			out = append(out, net.JoinHostPort(host, port))
		}
	}
	return out
}

// isHostName refuses names that a shell, an option parser or a terminal could take for something else. They come from the
// network.
func isHostName(s string) bool {
	if s == "" || len(s) > 255 || s[0] == '-' {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool {
		return !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune(".-_:%", r)
	})
}

// isLocalName says whether a name is one that only hosts of the local network have.
func isLocalName(s string) bool {
	return strings.HasSuffix(strings.ToLower(strings.TrimSuffix(s, ".")), ".local")
}

// resolve asks ssh_config how a target is reached.
func (b *Bootstrap) resolve(t *Target) (*settings, error) {
	s := &settings{label: t.Label(), alias: t.Host, port: t.Port, user: t.User, explicit: t.Port != 0 || t.User != ""}
	s.isHeard = t.Source == SourceBonjour
	for _, a := range t.Addresses {
		if _, err := netip.ParseAddr(a); err == nil {
			s.addresses = append(s.addresses, a)
		}
	}
	// ssh_config and known_hosts know hosts all over the world, and an advert must not choose among those.
	if s.isHeard && !isLocalName(s.alias) {
		return nil, cluster.Errorf(cluster.CodeInvalid, "Bonjour tells of %q, which is no name of the local network", untrusted.Line(t.Host, mostName)).
			WithHint("if it is yours, name it: mlxctl up user@host")
	}
	if s.alias == "" && len(s.addresses) > 0 {
		s.alias = s.addresses[0]
	}
	if !isHostName(s.alias) {
		return nil, cluster.Errorf(cluster.CodeInvalid, "%q is not the name of a host", untrusted.Line(t.Host, mostName)).
			WithHint("name it as ssh would be given it, or by its address")
	}
	if s.user != "" && !isUserName(s.user) {
		return nil, cluster.Errorf(cluster.CodeInvalid, "%q is not the name of a user", untrusted.Line(t.User, mostName))
	}
	b.fromConfig(s)
	return s, nil
}

func isUserName(s string) bool {
	return s[0] != '-' && !strings.ContainsFunc(s, func(r rune) bool { return unicode.IsControl(r) || strings.ContainsRune("'`\";&<>|(){}$ @", r) })
}

func (b *Bootstrap) fromConfig(s *settings) {
	get := func(key string) string {
		if s.isHeard && leadsElsewhere(key) {
			return ""
		}
		return b.config.get(s.alias, key)
	}
	if s.host = strings.ReplaceAll(get("HostName"), "%h", s.alias); s.host == "" {
		s.host = s.alias
	}
	if s.user == "" {
		if s.user = get("User"); s.user == "" {
			s.user = b.user
		}
	}
	if s.port == 0 {
		if s.port, _ = strconv.Atoi(get("Port")); s.port <= 0 || s.port > 65535 {
			s.port = sshPort
		}
	}
	if s.keyName = get("HostKeyAlias"); s.keyName == "" {
		s.keyName = s.host
	}
	for _, path := range b.config.all(s.alias, "IdentityFile") {
		if path != "none" {
			s.identities = append(s.identities, b.expand(s, path))
		}
	}
	s.onlyThose = strings.EqualFold(get("IdentitiesOnly"), "yes")
	s.agent = b.agentSocket(s, get("IdentityAgent"))
	if jump := get("ProxyJump"); !strings.EqualFold(jump, "none") {
		s.jump = jump
	}
	if command := get("ProxyCommand"); !strings.EqualFold(command, "none") && s.jump == "" {
		s.command = command
	}
	s.knownFiles = b.knownFiles(s)
}

// leadsElsewhere says of a key of ssh_config whether it leads from a name to another host. None applies to a neighbour that
// an advert named: it may have been given a name that one of the operator's patterns matches.
func leadsElsewhere(key string) bool {
	return key == "HostName" || key == "HostKeyAlias" || key == "ProxyJump" || key == "ProxyCommand"
}

// knownFiles lists the user's own files of host keys, and those of the machine.
func (b *Bootstrap) knownFiles(s *settings) []string {
	var out []string
	for key, usual := range map[string]string{
		"UserKnownHostsFile": "~/.ssh/known_hosts ~/.ssh/known_hosts2", "GlobalKnownHostsFile": "/etc/ssh/ssh_known_hosts /etc/ssh/ssh_known_hosts2",
	} {
		list := b.config.list(s.alias, key)
		if list == "" {
			list = usual
		}
		for _, path := range words(list) {
			if path != "none" {
				out = append(out, b.expand(s, path))
			}
		}
	}
	return out
}

func (b *Bootstrap) agentSocket(s *settings, configured string) string {
	switch {
	case strings.EqualFold(configured, "none"):
		return ""
	case configured == "" || configured == "SSH_AUTH_SOCK":
		path, _ := b.o.Env("SSH_AUTH_SOCK")
		return path
	case strings.HasPrefix(configured, "$"):
		path, _ := b.o.Env(strings.Trim(configured, "${}"))
		return path
	}
	return b.expand(s, configured)
}

// expand replaces what ssh_config allows in paths.
func (b *Bootstrap) expand(s *settings, path string) string {
	if rest, ok := strings.CutPrefix(path, "~/"); ok {
		path = filepath.Join(b.home, rest)
	}
	return strings.NewReplacer("%%", "%", "%d", b.home, "%h", s.host, "%n", s.alias, "%r", s.user, "%u", b.user, "%p", strconv.Itoa(s.port)).Replace(path)
}

// ParseTarget reads [user@]host[:port], as ssh and ProxyJump take it; an IPv6 address with a port is in brackets.
func ParseTarget(s, source string) (Target, error) {
	t := Target{Source: source}
	rest := strings.TrimPrefix(strings.TrimSpace(s), "ssh://")
	if i := strings.LastIndexByte(rest, '@'); i >= 0 {
		t.User, rest = rest[:i], rest[i+1:]
		if t.User == "" || !isUserName(t.User) {
			return t, cluster.Errorf(cluster.CodeInvalid, "%q names no user before the @", untrusted.Line(s, mostName))
		}
	}
	t.Host = rest
	if strings.HasPrefix(rest, "[") && strings.HasSuffix(rest, "]") {
		t.Host = rest[1 : len(rest)-1]
	}
	if host, port, err := net.SplitHostPort(rest); err == nil { // which a bare IPv6 address is not
		n, err := strconv.Atoi(port)
		if err != nil || n < 1 || n > 65535 {
			return t, cluster.Errorf(cluster.CodeInvalid, "%q is no port, in %q", untrusted.Line(port, mostName), untrusted.Line(s, mostName))
		}
		t.Host, t.Port = host, n
	}
	if !isHostName(t.Host) {
		return t, cluster.Errorf(cluster.CodeInvalid, "%q is not the name of a host", untrusted.Line(s, mostName)).WithHint("it is [user@]host[:port]")
	}
	return t, nil
}
