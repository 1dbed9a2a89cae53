package main

import (
	"fmt"
	"os"
	"runtime"
)

func main() {
	var rows []row
	for _, part := range []struct {
		name    string
		cores   int
		measure func() ([]row, error)
	}{
		{"quote and event log", 1, quoteRows},
		{"re-appraisal and cold log", 1, steadyRows},
		{"reference values from packages", 1, packageRows},
		{"attested connections", runtime.NumCPU(), attestRows},
	} {
		runtime.GOMAXPROCS(part.cores) // with one, collecting garbage is in the figure
		fmt.Fprintf(os.Stderr, "measuring %s\n", part.name)
		more, err := part.measure()
		if err != nil {
			fmt.Fprintf(os.Stderr, "keystead: error: %s: %v\n", part.name, err)
			os.Exit(1)
		}
		rows = append(rows, more...)
	}
	if !print(os.Stdout, rows) {
		os.Exit(1)
	}
}
