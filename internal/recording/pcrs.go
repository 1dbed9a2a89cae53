package recording

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"github.com/keystead/keystead/evidence"
)

// ParsePCRs reads lines of phase, bank, register and value in hex.
func ParsePCRs(text []byte) (map[string][]evidence.PCRs, error) {
	out := map[string][]evidence.PCRs{}
	number := 0
	for line := range strings.Lines(string(text)) {
		number++
		f := strings.Fields(line)
		if len(f) != 4 {
			return nil, fmt.Errorf("line %d: want phase, bank, register and value", number)
		}
		bank := bankNamed(f[1])
		i, err := strconv.Atoi(f[2])
		value, herr := hex.DecodeString(f[3])
		if bank == 0 || err != nil || i < 0 || i >= evidence.NumPCRs || herr != nil || len(value) != bank.Size() {
			return nil, fmt.Errorf("line %d: %q is not the value of a register", number, strings.TrimSpace(line))
		}
		phase := out[f[0]]
		if len(phase) == 0 || phase[len(phase)-1].Bank != bank {
			phase = append(phase, evidence.PCRs{Bank: bank})
		}
		phase[len(phase)-1].Value[i] = value
		out[f[0]] = phase
	}
	return out, nil
}

// FormatPCRs gives the lines of one phase.
func FormatPCRs(phase string, banks []evidence.PCRs) []byte {
	var b bytes.Buffer
	for _, p := range banks {
		for i, v := range p.Value {
			if v != nil {
				fmt.Fprintf(&b, "%s %v %d %x\n", phase, p.Bank, i, v)
			}
		}
	}
	return b.Bytes()
}

func bankNamed(s string) evidence.Bank {
	for _, b := range []evidence.Bank{evidence.SHA256, evidence.SHA384} {
		if b.String() == s {
			return b
		}
	}
	return 0
}
