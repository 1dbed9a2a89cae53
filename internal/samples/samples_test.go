package samples

import (
	"bytes"
	"testing"
)

// TestRead: a file of a module of each go.mod.
func TestRead(t *testing.T) {
	for module, name := range map[string]string{SEVGuest: "LICENSE", TDXGuest: "LICENSE", Azure: "LICENSE.txt", Oasis: "LICENSE", Anjuna: "LICENSE"} {
		if b := Read(t, module, name); !bytes.Contains(b, []byte("Apache License")) && !bytes.Contains(b, []byte("MIT License")) {
			t.Errorf("%s: the licence is another one", module)
		}
	}
	if _, err := dirOf("example.org/none"); err == nil {
		t.Error("a module that nobody requires was found")
	}
}
