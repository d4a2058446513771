package all

import (
	"os"
	"regexp"
	"slices"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/stretchr/testify/require"

	"homeward/drivers"
)

// TestDocumentedExamples: what docs/instruments.md and docs/modbus.md show can be configured as shown.
func TestDocumentedExamples(t *testing.T) {
	shown := map[string]bool{}
	for _, doc := range []string{"../../docs/instruments.md", "../../docs/modbus.md"} {
		text, err := os.ReadFile(doc)
		require.NoError(t, err)
		for _, block := range regexp.MustCompile("(?s)```yaml\n(?:sensors:\n)?(.*?)```").FindAllSubmatch(text, -1) {
			var sensors []map[string]any
			require.NoError(t, yaml.Unmarshal(block[1], &sensors), doc)
			for _, s := range sensors {
				name := s["driver"].(string)
				shown[name] = true
				i := slices.IndexFunc(Factories, func(f drivers.Factory) bool { return f.Name == name || slices.Contains(f.Aliases, name) })
				require.GreaterOrEqual(t, i, 0, name)
				for _, common := range []string{"name", "driver", "every", "timeout", "deadband", "on_change", "min", "max", "disabled"} {
					delete(s, common)
				}
				own, err := yaml.Marshal(s)
				require.NoError(t, err)
				o := Factories[i].New(name)
				require.NoError(t, yaml.UnmarshalWithOptions(own, o, yaml.Strict()), "%s: %s", doc, own)
				require.Empty(t, o.Check(), "%s: %s", doc, own)
			}
		}
	}
	for _, f := range Factories {
		for _, name := range append([]string{f.Name}, f.Aliases...) {
			require.True(t, shown[name], "no example of driver: %s", name)
		}
	}
}
