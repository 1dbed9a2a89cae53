package main

import (
	"fmt"
	"os"
)

func main() {
	var rows []row
	for _, part := range []struct {
		name    string
		measure func() ([]row, error)
	}{
		{"quote and event log", quoteRows},
		{"re-appraisal", steadyRows},
		{"IMA log against reference values", imaRows},
		{"reference values from packages", packageRows},
		{"attested connections", attestRows},
	} {
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
