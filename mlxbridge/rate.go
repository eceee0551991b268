package mlxbridge

import "time"

const (
	rateBuckets = 10
	rateWindow  = time.Second
)

// rate counts tokens over the last second, in tenths of it. Its user locks it.
type rate struct {
	counts [rateBuckets]int
	at     int64 // number of the newest bucket
}

// add counts n tokens at now, a time since any fixed point.
func (r *rate) add(now time.Duration, n int) {
	r.advance(now)
	r.counts[r.at%rateBuckets] += n
}

// perSecond returns the tokens of the second before now.
func (r *rate) perSecond(now time.Duration) float64 {
	r.advance(now)
	sum := 0
	for _, n := range r.counts {
		sum += n
	}
	return float64(sum) / rateWindow.Seconds()
}

func (r *rate) advance(now time.Duration) {
	bucket := int64(now / (rateWindow / rateBuckets))
	for steps := min(bucket-r.at, rateBuckets); steps > 0; steps-- {
		r.counts[(bucket-steps+1)%rateBuckets] = 0
	}
	r.at = max(r.at, bucket)
}
