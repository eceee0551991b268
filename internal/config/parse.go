package config

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// check says what is wrong with one value of k, or nothing.
func (k Key) check(value string) error {
	switch k.Kind {
	case Duration:
		return checkDuration(value)
	case Address:
		return checkAddress(value)
	case URL:
		return k.checkURLs(value)
	case Size:
		_, err := ParseBytes(value)
		return err
	case Count:
		if _, err := strconv.Atoi(value); err != nil || !digits.MatchString(value) {
			return fmt.Errorf("must be a whole number, 0 or more, not %q", value)
		}
	case Percent:
		if n, err := strconv.Atoi(value); err != nil || !digits.MatchString(value) || n > 90 {
			return fmt.Errorf("must be a whole number from 0 to 90, not %q", value)
		}
	case Path:
		if !filepath.IsAbs(value) {
			return fmt.Errorf("must be an absolute path, not %q", value)
		}
	case Choice:
		if !slices.Contains(k.Choices, value) {
			return fmt.Errorf("must be %s, not %q", alternatives(k.Choices), value)
		}
	case Strings:
		if slices.Contains(filepath.SplitList(value), "") {
			return fmt.Errorf("must not hold empty entries, as in %q", value)
		}
		return checkText(value)
	case Hosts:
		return checkHostList(value)
	case Text, File:
		return checkText(value)
	}
	return nil
}

var (
	digits   = regexp.MustCompile(`^[0-9]+$`)
	sizeText = regexp.MustCompile(`^([0-9]+(?:\.[0-9]+)?) *([kKmMgGtT]?[iI]?[bB]?)$`)
	bindHost = regexp.MustCompile(`^[0-9A-Za-z._-]*$`)
)

// mostValue bounds one line of text, in bytes.
const mostValue = 4096

func checkHostList(value string) error {
	for _, item := range splitHosts(value) {
		if _, err := ParseHost(item); err != nil {
			return err
		}
	}
	return nil
}

func checkText(value string) error {
	if len(value) > mostValue {
		return fmt.Errorf("must be at most %d bytes long", mostValue)
	}
	if value != strings.TrimSpace(value) {
		return fmt.Errorf("must not begin or end with a space, as %q does", value)
	}
	for _, r := range value {
		if !unicode.IsPrint(r) {
			return fmt.Errorf("must be one line of plain text, not %q", value)
		}
	}
	return nil
}

func checkDuration(value string) error {
	if d, err := time.ParseDuration(value); err != nil || d < 0 {
		return fmt.Errorf("must be a duration such as 90s or 10m, not %q", value)
	}
	return nil
}

func checkAddress(value string) error {
	if value == "" {
		return nil
	}
	host, port, err := net.SplitHostPort(value)
	if _, notIP := netip.ParseAddr(host); err != nil || (notIP != nil && !bindHost.MatchString(host)) {
		return fmt.Errorf("must be an address such as 127.0.0.1:8640, not %q", value)
	}
	if n, err := strconv.Atoi(port); err != nil || !digits.MatchString(port) || n > 65535 {
		return fmt.Errorf("must have a port from 0 to 65535, not %q", value)
	}
	return nil
}

func (k Key) checkURLs(value string) error {
	if value == "" {
		return nil
	}
	for s := range strings.SplitSeq(value, ",") {
		u, err := url.Parse(s)
		if err != nil || u.Scheme == "" || u.Host == "" {
			return fmt.Errorf("must be a URL such as tls://host:4222, not %q", redactURL(s))
		}
		if len(k.Schemes) > 0 && !slices.Contains(k.Schemes, u.Scheme) {
			return fmt.Errorf("must begin with %s, not as %q", alternatives(k.Schemes), redactURL(s))
		}
	}
	return nil
}

// ParseBytes reads a size such as 512MiB, 24GiB, 24GB or 1024; units are case-blind.
func ParseBytes(s string) (int64, error) {
	wrong := fmt.Errorf("must be a size such as 24GiB, not %q", s)
	parts := sizeText.FindStringSubmatch(s)
	if parts == nil {
		return 0, wrong
	}
	factor, ok := map[string]float64{
		"": 1, "b": 1,
		"kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12,
		"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40,
		"kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40,
	}[strings.ToLower(parts[2])]
	n, err := strconv.ParseFloat(parts[1], 64)
	if !ok || err != nil || !(n >= 0 && n*factor < 1<<62) {
		return 0, wrong
	}
	return int64(n * factor), nil
}

func alternatives(choices []string) string {
	last := len(choices) - 1
	return strings.Join(choices[:last], ", ") + " or " + choices[last]
}

func redactURL(s string) string {
	parts := strings.Split(s, ",")
	for i, p := range parts {
		u, err := url.Parse(p)
		if err == nil && u.User != nil {
			u.User = url.User("REDACTED")
			parts[i] = u.String()
		}
	}
	return strings.Join(parts, ",")
}
