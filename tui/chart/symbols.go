package chart

// Symbols is the set of characters to draw with, finest first.
type Symbols uint8

// Sets of symbols.
const (
	Braille Symbols = iota // two samples a column, four levels a row
	Block                  // one sample a column, eight levels a row
	ASCII                  // one sample a column, for terminals without UTF-8
)

// String names the set as a command line does.
func (s Symbols) String() string {
	switch s {
	case Braille:
		return "braille"
	case Block:
		return "block"
	default:
		return "ascii"
	}
}

// Samples returns how many samples width columns show.
func (s Symbols) Samples(width int) int {
	if s == Braille {
		return 2 * max(width, 0)
	}
	return max(width, 0)
}

// levels returns how many steps one row resolves.
func (s Symbols) levels() int {
	switch s {
	case Braille:
		return 4
	case Block:
		return 8
	default:
		return 7
	}
}

// block returns the cell with so many eighths filled from below.
func block(level int) rune {
	if level == 0 {
		return ' '
	}
	return '▁' + rune(level) - 1
}

// density returns the character that stands for a level.
func density(level int) rune { return rune(" _.:-=*#"[level]) }

// dots returns the braille cell with so many dots filled from below in the left and in the right column.
func dots(left, right int) rune {
	l := [...]rune{0, 0x40, 0x44, 0x46, 0x47}
	r := [...]rune{0, 0x80, 0xa0, 0xb0, 0xb8}
	return 0x2800 + l[left] + r[right]
}
