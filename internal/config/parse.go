package config

import (
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// check says what is wrong with one value of k, or nothing.
func (k Key) check(value string) error {
	switch k.Kind {
	case Duration:
		return checkDuration(value)
	case Address:
		return checkAddress(value)
	case URL:
		return checkURLs(value)
	case Size:
		_, err := ParseBytes(value)
		return err
	case Count:
		if n, err := strconv.Atoi(value); err != nil || n < 0 {
			return fmt.Errorf("must be a whole number, 0 or more, not %q", value)
		}
	case Percent:
		if n, err := strconv.Atoi(value); err != nil || n < 0 || n > 90 {
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
	case Text, Strings:
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
	_, port, err := net.SplitHostPort(value)
	if err != nil {
		return fmt.Errorf("must be an address such as 127.0.0.1:8640, not %q", value)
	}
	if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
		return fmt.Errorf("must have a port from 0 to 65535, not %q", value)
	}
	return nil
}

func checkURLs(value string) error {
	if value == "" {
		return nil
	}
	for s := range strings.SplitSeq(value, ",") {
		u, err := url.Parse(s)
		if err != nil || u.Scheme == "" || u.Host == "" {
			return fmt.Errorf("must be a URL such as tls://host:4222, not %q", redactURL(s))
		}
	}
	return nil
}

// ParseBytes reads a size such as 512MiB, 24GiB, 24GB or 1024; units are case-blind.
func ParseBytes(s string) (int64, error) {
	wrong := fmt.Errorf("must be a size such as 24GiB, not %q", s)
	digits := strings.TrimRight(s, "kKmMgGtTiIbB ")
	factor, ok := map[string]float64{
		"": 1, "b": 1,
		"kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12,
		"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40,
		"kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40,
	}[strings.ToLower(strings.TrimSpace(s[len(digits):]))]
	n, err := strconv.ParseFloat(digits, 64)
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
