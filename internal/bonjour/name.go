package bonjour

import (
	"regexp"
	"strings"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"

	"github.com/mlxctl/mlxctl/internal/untrusted"
)

// nameBytes is the most that a DNS label, and so the name of a service, can have.
const nameBytes = 63

var (
	// plainHost is what may be given to a program as a host; it cannot be taken for an option.
	plainHost = regexp.MustCompile(`^[a-z0-9_][a-z0-9_-]*(?:\.[a-z0-9_][a-z0-9_-]*)+$`)
	// adapter is the hardware address that Avahi adds to the name of a workstation.
	adapter = regexp.MustCompile(` \[[0-9a-fA-F:]{17}\]$`)
)

// unescape turns the presentation form of a DNS name or text, `\DDD` and `\x`, into its bytes.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		if code, ok := decimal(s[i+1:]); ok {
			b.WriteByte(code)
			i += 3
			continue
		}
		i++
		b.WriteByte(s[i])
	}
	return b.String()
}

// decimal reads the three digits that s begins with.
func decimal(s string) (byte, bool) {
	if len(s) < 3 {
		return 0, false
	}
	n := 0
	for _, c := range []byte(s[:3]) {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int(c-'0')
	}
	return byte(n), n < 256
}

// clean makes text from the network safe to show, in at most nameBytes, composed as macOS composes it on screen.
func clean(s string) string { return untrusted.Line(norm.NFC.String(s), nameBytes) }

// cut shortens s to n bytes without breaking a character.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// hostKey is what two names of one host have in common.
func hostKey(name string) string {
	return strings.ToLower(strings.TrimSuffix(unescape(name), "."))
}

// isLocal says whether a hostKey is of this network. An advert that names any other host is forged: multicast DNS answers
// for nothing else, and whoever is at the other name never said that it wants to be found.
func isLocal(host string) bool { return strings.HasSuffix(host, "."+domain) }

// splitInstance takes "Fred._ssh._tcp.local." apart; ok is false for other services.
func splitInstance(name string, services []string) (instance, service string, ok bool) {
	for _, s := range services {
		suffix := "." + s + "." + domain + "."
		at := len(name) - len(suffix)
		if at > 0 && strings.EqualFold(name[at:], suffix) {
			return instanceName(name[:at], s), s, true
		}
	}
	return "", "", false
}

func instanceName(escaped, service string) string {
	name := unescape(escaped)
	if service == workstation {
		name = adapter.ReplaceAllString(name, "")
	}
	return clean(name)
}

// attributes reads the strings of a TXT record; the first of a key counts, as RFC 6763 has it.
func attributes(text []string) map[string]string {
	out := make(map[string]string, len(text))
	size := 0
	for _, s := range text {
		if size += len(s) + 1; size > textBytes {
			break
		}
		key, value, _ := strings.Cut(unescape(s), "=")
		key = strings.ToLower(key)
		if _, twice := out[key]; key != "" && !twice {
			out[key] = clean(value)
		}
	}
	return out
}
