package doctor

import (
	"strings"

	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
)

// Multicast judges a scan: seen is how many other Macs answered, known how many of the others are nodes or named by the
// configuration, and missed which of those that serve were not seen.
func Multicast(seen, known int, missed []string) plan.Finding {
	const fix = "name the others: `mlxctl up user@host`, or `hosts:` in the configuration; on the network: client isolation and IGMP snooping off"
	switch {
	case seen > 0 && len(missed) > 0:
		return warn(fix, "%d other %s answered, but not %s, though serving: multicast is filtered on the way", seen, macs(seen), strings.Join(missed, ", "))
	case seen > 0:
		return ok("%d other %s answered", seen, macs(seen))
	case len(missed) > 0:
		return warn(fix, "nobody answered, though %s serves: multicast is filtered on this network", strings.Join(missed, ", "))
	case known > 0:
		return warn(fix, "nobody answered, of %d %s that are known: multicast is filtered on this network, or they are off", known, macs(known))
	default:
		return warn(fix, "no other Mac answered: none is on this network, or multicast is filtered on it")
	}
}

func macs(n int) string {
	if n == 1 {
		return "Mac"
	}
	return "Macs"
}
