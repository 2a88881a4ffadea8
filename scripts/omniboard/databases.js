// The run databases that a tracking URL stands for, in the form of Omniboard's configuration: a tab for each kind of run.
'use strict';

const fs = require('fs');

const KINDS = ['trainings', 'predictions', 'segmentations', 'measurements', 'evaluations', 'sweeps', 'bootstrapping'];
const PARTS = /^(mongodb(?:\+srv)?:\/\/)([^/?]+)(?:\/([^?]*))?(?:\?(.*))?$/;

/** Reads {"url": ..., "db_name": ...}, as incasem keeps it. */
function readJson(path) {
  let content;
  try {
    content = JSON.parse(fs.readFileSync(path, 'utf8'));
  } catch (error) {
    throw new Error(`The database file ${path} cannot be read: write JSON of the form {"url": "localhost:27017"}.`);
  }
  return {url: String(content.url || ''), name: content.db_name || ''};
}

/**
 * Gives Omniboard's configuration for a mongodb:// URL, host:port or a JSON file.
 * Its database, incasem_trainings unless the URL names one, tells how those of the other kinds are called.
 */
function databases(tracking) {
  const found = /\.json$/i.test(tracking) ? readJson(tracking) : {url: tracking, name: ''};
  const parts = PARTS.exec(found.url.includes('://') ? found.url : `mongodb://${found.url}`);
  if (!parts) {
    // Not quoted, since it may hold a password
    throw new Error('That is no address of a MongoDB server: give mongodb://host:port, host:port or a JSON file.');
  }
  const [, scheme, hosts, path = '', query = ''] = parts;
  const options = new URLSearchParams(query);
  if (hosts.includes('@') && !options.has('authSource')) {
    options.set('authSource', path || 'admin');
  }
  const named = found.name || (path === 'admin' ? '' : path) || 'incasem_trainings';
  const ending = KINDS.find(kind => named.endsWith(`_${kind}`));
  const prefix = ending ? named.slice(0, -ending.length - 1) : named;
  const tail = options.toString() ? `?${options}` : '';
  return Object.fromEntries(KINDS.map(kind => {
    const database = kind === 'trainings' && !ending ? named : `${prefix}_${kind}`;
    return [kind, {mongodbURI: `${scheme}${hosts}/${database}${tail}`, path: `/${kind}`}];
  }));
}

module.exports = {databases};
