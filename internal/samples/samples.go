// Package samples reads evidence of real machines, for tests, where others published it:
// in the test data of modules, whose bytes are not copied into this repository.
//
// Modules that this project uses anyway are in its own go.mod. The others are required by
// modules/go.mod, which builds nothing: so that no dependency of theirs is asked for. The
// go command fetches each as it fetches any module, and checks it against modules/go.sum.
package samples

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// The modules.
const (
	SEVGuest = "github.com/google/go-sev-guest"                       // Apache-2.0: a report of a Milan whose guest allows a debugger
	TDXGuest = "github.com/google/go-tdx-guest"                       // Apache-2.0: quotes of three machines, Intel's collateral
	Azure    = "github.com/Microsoft/confidential-sidecar-containers" // MIT: a report of a Milan
	Oasis    = "github.com/oasisprotocol/oasis-core/go"               // Apache-2.0: quotes of SGX and TDX, Intel's collateral
	Anjuna   = "github.com/anjuna-security/go-nitro-attestation"      // Apache-2.0: documents of Nitro
)

// Read returns a file of a module.
func Read(t testing.TB, module, name string) []byte {
	t.Helper()
	dir, err := dirOf(module)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// dirOf returns where the module's files lie.
func dirOf(module string) (string, error) {
	own, err := fetched()
	if err != nil {
		return "", err
	}
	if dir, ok := own[module]; ok {
		return dir, nil
	}
	dir, err := run("", "list", "-m", "-f", "{{.Dir}}", module)
	return strings.TrimSpace(string(dir)), err
}

// fetched has the modules of modules/go.mod, by their paths.
var fetched = sync.OnceValues(func() (map[string]string, error) {
	main, err := run("", "env", "GOMOD")
	if err != nil {
		return nil, err
	}
	list, err := run(filepath.Join(filepath.Dir(strings.TrimSpace(string(main))), "internal/samples/modules"), "mod", "download", "-json")
	if err != nil {
		return nil, err
	}
	dirs := map[string]string{}
	for d := json.NewDecoder(bytes.NewReader(list)); ; {
		var m struct{ Path, Dir string }
		if err := d.Decode(&m); errors.Is(err, io.EOF) {
			return dirs, nil
		} else if err != nil {
			return nil, err
		}
		dirs[m.Path] = m.Dir
	}
})

func run(dir string, args ...string) ([]byte, error) {
	c := exec.Command("go", args...)
	c.Dir = dir
	out, err := c.Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return nil, fmt.Errorf("go %s: %w: %s%s", strings.Join(args, " "), err, exit.Stderr, out)
	}
	return out, err
}
