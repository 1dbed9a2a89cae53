package policy

import (
	"embed"
	"slices"
	"strings"
)

//go:embed shipped/*.txt
var shipped embed.FS

// Shipped returns the text of a policy that comes with the program, without a
// signature: to accept it is its signer's act. The name is one of ShippedNames.
func Shipped(name string) (text []byte, ok bool) {
	if !slices.Contains(ShippedNames(), name) {
		return nil, false
	}
	text, err := shipped.ReadFile("shipped/" + name + ".txt")
	return text, err == nil
}

// ShippedNames lists the policies that come with the program, sorted.
func ShippedNames() (names []string) {
	files, _ := shipped.ReadDir("shipped") // embedded: always there
	for _, f := range files {
		names = append(names, strings.TrimSuffix(f.Name(), ".txt"))
	}
	return names
}
