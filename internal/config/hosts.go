package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// HostsKey is the list of machines to make nodes of, next to those that Bonjour finds.
const HostsKey = "hosts"

// Host is a machine as ssh is told of it.
type Host struct {
	Host string // a name, an address, an alias of ssh_config
	User string // empty means what ssh would use
	Port int    // zero means what ssh would use
}

// SSH says how other machines are reached.
type SSH struct {
	Transport string `mapstructure:"transport"` // library, openssh
	User      string `mapstructure:"user"`      // where a host names none
	Parallel  int    `mapstructure:"parallel"`  // hosts at a time
}

// hostKeys are the fields of one entry of hosts, where it is not one line of text.
func hostKeys() []Key {
	return []Key{
		{Name: "host", Doc: "name, address or alias of ssh_config"},
		{Name: "user", Doc: "whom to log in as"},
		{Name: "port", Kind: Count, Doc: "of SSH"},
	}
}

var (
	hostName = regexp.MustCompile(`^[\pL\pN_]([\pL\pN._’'-]{0,251}[\pL\pN_.])?$`)
	userName = regexp.MustCompile(`^[\pL\pN_][\pL\pN._$-]{0,63}$`)
)

// ParseHost reads [USER@]HOST[:PORT]. An IPv6 address that is followed by a port stands in brackets.
func ParseHost(s string) (Host, error) {
	wrong := fmt.Errorf("must be a host such as studio.local, anna@10.0.0.5 or studio:2222, not %q", s)
	var h Host
	rest := s
	if user, host, ok := strings.Cut(s, "@"); ok {
		if !userName.MatchString(user) {
			return Host{}, wrong
		}
		h.User, rest = user, host
	}
	if addr, err := netip.ParseAddr(rest); err == nil {
		h.Host = addr.String()
		return h, nil
	}
	h.Host = rest
	if host, port, err := net.SplitHostPort(rest); err == nil {
		n, err := strconv.Atoi(port)
		if err != nil || n < 1 || n > 65535 {
			return Host{}, wrong
		}
		h.Host, h.Port = host, n
	}
	if _, err := netip.ParseAddr(h.Host); err != nil && !hostName.MatchString(h.Host) {
		return Host{}, wrong
	}
	return h, nil
}

// String is what ParseHost reads.
func (h Host) String() string {
	s := h.Host
	if h.Port != 0 {
		s = net.JoinHostPort(s, strconv.Itoa(h.Port))
	}
	if h.User != "" {
		s = h.User + "@" + s
	}
	return s
}

// HostList returns the machines that the settings name.
func (c *Config) HostList() []Host {
	var out []Host
	for _, s := range c.Hosts {
		if h, err := ParseHost(s); err == nil { // others were refused when they were read
			out = append(out, h)
		}
	}
	return out
}

// checkHosts checks the list, whose entries are lines of text or mappings.
func (f *file) checkHosts(list *yaml.Node) error {
	if list.Kind != yaml.SequenceNode {
		return f.wrong(list.Line, "%s must be a list", HostsKey)
	}
	for i, entry := range list.Content {
		where := fmt.Sprintf("%s[%d]", HostsKey, i)
		if entry.Kind == yaml.MappingNode {
			if err := f.checkFields(entry, where, hostKeys()); err != nil {
				return err
			}
		}
		text, err := hostText(entry)
		if err == nil {
			_, err = ParseHost(text)
		}
		if err != nil {
			return f.wrong(entry.Line, "%s %v", where, err)
		}
	}
	return nil
}

// hostText is one entry in one line of text.
func hostText(entry *yaml.Node) (string, error) {
	switch entry.Kind {
	case yaml.ScalarNode:
		return entry.Value, nil
	case yaml.MappingNode:
		h := Host{Host: scalar(find(entry, "host")), User: scalar(find(entry, "user"))}
		if port := scalar(find(entry, "port")); port != "" {
			n, err := strconv.Atoi(port)
			if err != nil || n < 1 || n > 65535 {
				return "", fmt.Errorf("must have a port from 1 to 65535, not %q", port)
			}
			h.Port = n
		}
		return h.String(), nil
	default:
		return "", errors.New("must be a host, or its host, user and port")
	}
}

// hostTexts are the entries of the list in the file, which was checked.
func hostTexts(list *yaml.Node) []string {
	out := []string{}
	for _, entry := range list.Content {
		if text, err := hostText(entry); err == nil {
			out = append(out, text)
		}
	}
	return out
}

// splitHosts reads a list that is one line of text.
func splitHosts(value string) []string {
	out := []string{}
	for s := range strings.SplitSeq(value, ",") {
		if s = strings.TrimSpace(s); s != "" {
			out = append(out, s)
		}
	}
	return out
}
