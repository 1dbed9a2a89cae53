package main

import (
	"fmt"
	"testing"

	"github.com/pelletier/go-toml/v2"

	"github.com/keystead/keystead/agent"
	"github.com/keystead/keystead/internal/golden"
	"github.com/keystead/keystead/node"
)

// TestConfigurationStays holds every key of the two configurations, with its type and default,
// to testdata/*.config.golden: files of operators have them.
func TestConfigurationStays(t *testing.T) {
	for name, example := range map[string]string{"agent": agent.ExampleConfig, "node": node.ExampleConfig} {
		var tree map[string]any
		if err := toml.Unmarshal([]byte(example), &tree); err != nil {
			t.Fatal(err)
		}
		golden.Check(t, "testdata/"+name+".config.golden", *update, keysOf(tree, ""))
	}
}

func keysOf(tree map[string]any, path string) (out []string) {
	for k, v := range tree {
		if below, ok := v.(map[string]any); ok {
			out = append(out, keysOf(below, path+k+".")...)
		} else {
			out = append(out, fmt.Sprintf("%s%s %T %v", path, k, v, v))
		}
	}
	return out
}
