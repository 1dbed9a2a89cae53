package testbed

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/internal/authenticode"
)

// codeSet gives the text of a code set that accepts this guest's boot, computed
// from the files that it boots from.
func (b *Bed) codeSet() ([]byte, error) {
	kernel, err := os.ReadFile(b.Kernel)
	if err != nil {
		return nil, err
	}
	digest, err := authenticode.Digest(kernel)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", b.Kernel, err)
	}
	initrd, err := os.ReadFile(b.Initrd)
	if err != nil {
		return nil, err
	}
	var line bytes.Buffer
	e := json.NewEncoder(&line)
	e.SetEscapeHTML(false)
	if err := e.Encode(CommandLine); err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, "keystead-codeset/1\nname testbed\nboot guest kernel=%v initrd=%v guarantees=ima-policy,ptrace-scope-3 cmdline=%s",
		digest, keystead.Sum(initrd), line.Bytes()), nil
}
