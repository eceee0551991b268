package bootstrap

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// markerWord matches one word of a condition of a Python requirement.
var markerWord = regexp.MustCompile(`^\s*(\(|\)|'[^']*'|"[^"]*"|[<>=!~]=?=?|[A-Za-z_]+)`)

// holds evaluates the condition of a requirement for another machine than this one: pip can only do it for its own. It
// knows what lock files use: and, or, parentheses, and comparisons of a variable with a text.
func holds(condition string, env map[string]string) (bool, error) {
	p := &marker{env: env}
	for rest := condition; strings.TrimSpace(rest) != ""; {
		m := markerWord.FindStringSubmatch(rest)
		if m == nil {
			return false, fmt.Errorf("cannot read %q", rest)
		}
		p.words = append(p.words, m[1])
		rest = rest[len(m[0]):]
	}
	ok, err := p.either()
	if err == nil && len(p.words) > 0 {
		err = fmt.Errorf("%q is too much", p.words[0])
	}
	return ok, err
}

type marker struct {
	words []string
	env   map[string]string
}

func (p *marker) next() string {
	if len(p.words) == 0 {
		return ""
	}
	w := p.words[0]
	p.words = p.words[1:]
	return w
}

func (p *marker) take(word string) bool {
	if len(p.words) > 0 && p.words[0] == word {
		p.words = p.words[1:]
		return true
	}
	return false
}

func (p *marker) either() (bool, error) {
	ok, err := p.both()
	for err == nil && p.take("or") {
		var more bool
		more, err = p.both()
		ok = ok || more
	}
	return ok, err
}

func (p *marker) both() (bool, error) {
	ok, err := p.single()
	for err == nil && p.take("and") {
		var more bool
		more, err = p.single()
		ok = ok && more
	}
	return ok, err
}

func (p *marker) single() (bool, error) {
	if p.take("(") {
		ok, err := p.either()
		if err == nil && !p.take(")") {
			err = errors.New("a parenthesis is not closed")
		}
		return ok, err
	}
	name, op, text := p.next(), p.next(), strings.Trim(p.next(), `'"`)
	value, known := p.env[name]
	if !known {
		return false, fmt.Errorf("%q is not known", name)
	}
	if op == "==" && !strings.HasPrefix(name, "python") {
		return value == text, nil
	}
	if op == "!=" && !strings.HasPrefix(name, "python") {
		return value != text, nil
	}
	order := compareVersions(value, text)
	switch op {
	case "==":
		return order == 0, nil
	case "!=":
		return order != 0, nil
	case "<":
		return order < 0, nil
	case "<=":
		return order <= 0, nil
	case ">":
		return order > 0, nil
	case ">=":
		return order >= 0, nil
	}
	return false, fmt.Errorf("%q is not known", op)
}

// compareVersions compares numbers between points; what is missing counts as zero.
func compareVersions(a, b string) int {
	as, bs := strings.Split(a, "."), strings.Split(b, ".")
	for i := range max(len(as), len(bs)) {
		if x, y := numberAt(as, i), numberAt(bs, i); x != y {
			return x - y
		}
	}
	return 0
}

func numberAt(parts []string, i int) int {
	if i >= len(parts) {
		return 0
	}
	n, _ := strconv.Atoi(parts[i])
	return n
}
