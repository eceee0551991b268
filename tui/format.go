package tui

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// count writes n in at most six columns: 9,999, then 12.3k, 4.5M, 6.7G.
func count(n int64) string {
	switch {
	case n < 0:
		return "0"
	case n < 10_000:
		return grouped(n)
	}
	f := float64(n)
	for _, unit := range []string{"k", "M", "G"} {
		f /= 1000
		if f < 99.95 {
			return strconv.FormatFloat(f, 'f', 1, 64) + unit
		}
		if f < 999.5 {
			return strconv.FormatFloat(f, 'f', 0, 64) + unit
		}
	}
	return strconv.FormatFloat(f/1000, 'f', 1, 64) + "T"
}

// grouped writes n with a comma every three digits.
func grouped(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// rate writes tokens per second in at most six columns.
func rate(f float64) string {
	switch {
	case !(f >= 0.05):
		return "0.0"
	case f < 999.95:
		return strconv.FormatFloat(f, 'f', 1, 64)
	}
	return count(int64(f + 0.5))
}

// size writes n in at most eight columns, always with its unit.
func size(n int64) string {
	number, unit := scaled(float64(max(n, 0)))
	return number + " " + unit
}

func scaled(f float64) (number, unit string) {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}
	i := 0
	for f >= 1023.5 && i < len(units)-1 {
		f /= 1024
		i++
	}
	if i == 0 || f >= 99.95 {
		return strconv.FormatFloat(f, 'f', 0, 64), units[i]
	}
	return strconv.FormatFloat(f, 'f', 1, 64), units[i]
}

// portion writes "12.3/96.0 GiB" in at most fifteen columns: both in the unit of the whole, so that they compare at a
// glance, unless the part would then be nothing.
func portion(used, of int64) string {
	const units = "BKMGTPE"
	u := 0
	for f := float64(max(of, 0)); f >= 1023.5 && u < len(units)-1; u++ {
		f /= 1024
	}
	in := func(n int64) string {
		return strconv.FormatFloat(float64(max(n, 0))/float64(int64(1)<<(10*u)), 'f', 1, 64)
	}
	name := " B"
	if u > 0 {
		name = " " + units[u:u+1] + "iB"
	}
	if part := in(used); part != "0.0" || used <= 0 {
		return part + "/" + in(of) + name
	}
	number, unit := scaled(float64(used))
	number, _, _ = strings.Cut(number, ".")
	return number + " " + unit + "/" + in(of) + name
}

// percent writes f in at most four columns; none where the machine does not offer it.
func percent(f *float64, none string) string {
	if f == nil || !(*f >= 0) {
		return none
	}
	return strconv.Itoa(int(min(*f, 999)+0.5)) + "%"
}

// age writes d in at most six columns, coarser the longer it is: 4s, 3m07s, 2h05m, 3d04h, 120d.
func age(d time.Duration) string {
	d = max(d, 0).Truncate(time.Second)
	s := int64(d / time.Second)
	switch {
	case s < 60:
		return strconv.FormatInt(s, 10) + "s"
	case s < 3600:
		return fmt.Sprintf("%dm%02ds", s/60, s%60)
	case s < 24*3600:
		return fmt.Sprintf("%dh%02dm", s/3600, s/60%60)
	case s < 100*24*3600:
		return fmt.Sprintf("%dd%02dh", s/86400, s/3600%24)
	}
	return strconv.FormatInt(s/86400, 10) + "d"
}

// short writes a wait: 85ms, 1.2s, then as age.
func short(d time.Duration) string {
	switch {
	case d < 0:
		return "0ms"
	case d < 999500*time.Microsecond:
		return strconv.FormatInt(int64((d+time.Millisecond/2)/time.Millisecond), 10) + "ms"
	case d < 9950*time.Millisecond:
		return strconv.FormatFloat(d.Seconds(), 'f', 1, 64) + "s"
	}
	return age(d + time.Second/2)
}
