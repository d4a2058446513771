// An independent TUF client (npm tuf-js) looks at a repository: node tuf.cjs MODULES ADDRESS ROOT TARGET…
// For each target it prints the path and the content as one JSON line; a target that nobody signed has null.
const [modules, address, root, ...targets] = process.argv.slice(2);
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const { Updater } = require(path.join(modules, 'tuf-js'));

(async () => {
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), 'tuf-js-'));
  fs.mkdirSync(path.join(dir, 'targets'));
  fs.copyFileSync(root, path.join(dir, 'root.json'));
  try {
    const updater = new Updater({ metadataDir: dir, metadataBaseUrl: address, targetDir: path.join(dir, 'targets'), targetBaseUrl: address });
    await updater.refresh();
    for (const target of targets) {
      const info = await updater.getTargetInfo(target);
      const content = info ? fs.readFileSync(await updater.downloadTarget(info), 'utf8') : null;
      console.log(JSON.stringify([target, content]));
    }
    console.log(JSON.stringify(['root', JSON.parse(fs.readFileSync(path.join(dir, 'root.json'), 'utf8')).signed.version]));
  } finally {
    fs.rmSync(dir, { recursive: true });
  }
})().catch((err) => { console.error(err); process.exit(1); });
