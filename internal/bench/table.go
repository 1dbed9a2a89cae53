// Command bench measures the figures that this project promises and prints one
// table: figure, measured, limit, and a peer measured in turn with it in the same run.
// The machine may be noisy, so each pair runs alternately and the medians and
// the median of the ratios are what counts.
package main

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"
)

// rounds is how often a pair is measured in turn; each side runs for about slice.
const (
	rounds = 15
	slice  = 60 * time.Millisecond
)

// A row is one line of the table.
type row struct {
	figure, measured, limit, peer string
	met                           bool
}

// pair measures a and b in turn and returns the median time of one call of each
// and the median ratio a/b.
func pair(a, b func()) (ta, tb time.Duration, ratio float64) {
	na, nb := calls(a), calls(b)
	var as, bs []time.Duration
	var ratios []float64
	for range rounds {
		x, y := perCall(a, na), perCall(b, nb)
		as, bs = append(as, x), append(bs, y)
		ratios = append(ratios, float64(x)/float64(y))
	}
	return median(as), median(bs), median(ratios)
}

// calls returns how many calls fill a slice, after warming up.
func calls(f func()) int {
	f()
	start := time.Now()
	n := 0
	for time.Since(start) < slice {
		f()
		n++
	}
	return max(n, 1)
}

func perCall(f func(), n int) time.Duration {
	start := time.Now()
	for range n {
		f()
	}
	return time.Since(start) / time.Duration(n)
}

func median[T int64 | float64 | time.Duration](v []T) T {
	s := slices.Sorted(slices.Values(v))
	return s[len(s)/2]
}

// print writes the table and reports whether every limit is met.
func print(w io.Writer, rows []row) bool {
	met := true
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "figure\tmeasured\tlimit\tpeer, same run\t")
	for _, r := range rows {
		verdict := "met"
		if r.limit == "" {
			verdict = ""
		} else if !r.met {
			verdict, met = "MISSED", false
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\n", r.figure, r.measured, r.limit, r.peer, verdict)
	}
	tw.Flush()
	return met
}
