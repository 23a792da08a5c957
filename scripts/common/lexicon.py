"""The words of the generated English–German corpus, as tables: a line is an entry, its columns separated by spaces."""

# English singular and plural, German singular and plural, gender. None declines weakly (as der Junge, den Jungen does).
BEINGS = """
man men Mann Männer m | woman women Frau Frauen f | child children Kind Kinder n | girl girls Mädchen Mädchen n
teacher teachers Lehrer Lehrer m | doctor doctors Ärztin Ärztinnen f | sister sisters Schwester Schwestern f
brother brothers Bruder Brüder m | mother mothers Mutter Mütter f | father fathers Vater Väter m
daughter daughters Tochter Töchter f | son sons Sohn Söhne m | friend friends Freund Freunde m | cook cooks Koch Köche m
singer singers Sängerin Sängerinnen f | painter painters Maler Maler m | baker bakers Bäcker Bäcker m
king kings König Könige m | queen queens Königin Königinnen f | uncle uncles Onkel Onkel m | aunt aunts Tante Tanten f
grandmother grandmothers Großmutter Großmütter f | grandfather grandfathers Großvater Großväter m
pupil pupils Schülerin Schülerinnen f | driver drivers Fahrer Fahrer m | gardener gardeners Gärtner Gärtner m
fisherman fishermen Fischer Fischer m | dog dogs Hund Hunde m | cat cats Katze Katzen f | horse horses Pferd Pferde n
bird birds Vogel Vögel m | cow cows Kuh Kühe f | goat goats Ziege Ziegen f | pig pigs Schwein Schweine n
duck ducks Ente Enten f | mouse mice Maus Mäuse f | fox foxes Fuchs Füchse m | rabbit rabbits Kaninchen Kaninchen n
"""
THINGS = """
ball balls Ball Bälle m | book books Buch Bücher n | letter letters Brief Briefe m | lamp lamps Lampe Lampen f
bicycle bicycles Fahrrad Fahrräder n | table tables Tisch Tische m | chair chairs Stuhl Stühle m | egg eggs Ei Eier n
bottle bottles Flasche Flaschen f | cup cups Tasse Tassen f | glass glasses Glas Gläser n | plate plates Teller Teller m
knife knives Messer Messer n | spoon spoons Löffel Löffel m | picture pictures Bild Bilder n | hat hats Hut Hüte m
coat coats Mantel Mäntel m | shoe shoes Schuh Schuhe m | bag bags Tasche Taschen f | basket baskets Korb Körbe m
key keys Schlüssel Schlüssel m | box boxes Kiste Kisten f | guitar guitars Gitarre Gitarren f | tent tents Zelt Zelte n
newspaper newspapers Zeitung Zeitungen f | flower flowers Blume Blumen f | apple apples Apfel Äpfel m
pear pears Birne Birnen f | cake cakes Kuchen Kuchen m | rope ropes Seil Seile n | map maps Karte Karten f
suitcase suitcases Koffer Koffer m | radio radios Radio Radios n | blanket blankets Decke Decken f
shirt shirts Hemd Hemden n | clock clocks Uhr Uhren f | toy toys Spielzeug Spielzeuge n | ring rings Ring Ringe m
"""
# English preposition with its noun, German preposition (with the dative) with its noun, gender.
PLACES = """
in park in Park m | in garden in Garten m | in kitchen in Küche f | in school in Schule f | in forest in Wald m
in city in Stadt f | in village in Dorf n | in church in Kirche f | on street auf Straße f | on roof auf Dach n
on meadow auf Wiese f | on bridge auf Brücke f | on beach an Strand m | by river an Fluss m | by lake an See m
at market auf Markt m | behind wall hinter Mauer f | behind house hinter Haus n | in hotel in Hotel n
in library in Bibliothek f | in hospital in Krankenhaus n | in office in Büro n | on mountain auf Berg m
on island auf Insel f | in museum in Museum n | in restaurant in Restaurant n | in shop in Laden m
in cellar in Keller m | under tree unter Baum m | under bench unter Bank f | near station bei Bahnhof m
"""
# English and the German stem before its ending.
ADJECTIVES = {
    "any": "old alt | small klein | big groß | beautiful schön | strange seltsam | good gut",
    "beings": """young jung | happy glücklich | tired müd | strong stark | famous berühmt | friendly freundlich
        clever klug | brave mutig | lazy faul | hungry hungrig | rich reich | poor arm | sad traurig
        polite höflich | quiet ruhig""",
    "things": """new neu | black schwarz | white weiß | brown braun | red rot | green grün | blue blau
        yellow gelb | heavy schwer | cheap billig | clean sauber | long lang | short kurz | round rund
        broken kaputt | valuable wertvoll | useful nützlich""",
}
# English base, third person and participle (_ for a space); German infinitive with | after a separable prefix,
# third person (without the prefix), participle, auxiliary of the perfect (h haben, s sein), case of the object.
VERBS = {
    "things": """
carry carries carried tragen trägt getragen h acc / see sees seen sehen sieht gesehen h acc
find finds found finden findet gefunden h acc / buy buys bought kaufen kauft gekauft h acc
sell sells sold verkaufen verkauft verkauft h acc / clean cleans cleaned putzen putzt geputzt h acc
break breaks broken zerbrechen zerbricht zerbrochen h acc / hide hides hidden verstecken versteckt versteckt h acc
repair repairs repaired reparieren repariert repariert h acc / need needs needed brauchen braucht gebraucht h acc
lose loses lost verlieren verliert verloren h acc / forget forgets forgotten vergessen vergisst vergessen h acc
draw draws drawn zeichnen zeichnet gezeichnet h acc
describe describes described beschreiben beschreibt beschrieben h acc
steal steals stolen stehlen stiehlt gestohlen h acc
throw_away throws_away thrown_away weg|werfen wirft weggeworfen h acc
pick_up picks_up picked_up auf|heben hebt aufgehoben h acc / look_at looks_at looked_at an|sehen sieht angesehen h acc
bring_along brings_along brought_along mit|bringen bringt mitgebracht h acc
choose chooses chosen aus|wählen wählt ausgewählt h acc / pack packs packed ein|packen packt eingepackt h acc
""",
    "beings": """
love loves loved lieben liebt geliebt h acc / know knows known kennen kennt gekannt h acc
visit visits visited besuchen besucht besucht h acc / hear hears heard hören hört gehört h acc
call calls called rufen ruft gerufen h acc / greet greets greeted grüßen grüßt gegrüßt h acc
meet meets met treffen trifft getroffen h acc / watch watches watched beobachten beobachtet beobachtet h acc
wake_up wakes_up woken_up auf|wecken weckt aufgeweckt h acc / fetch fetches fetched ab|holen holt abgeholt h acc
invite invites invited ein|laden lädt eingeladen h acc / see sees seen sehen sieht gesehen h acc
follow follows followed folgen folgt gefolgt s dat / help helps helped helfen hilft geholfen h dat
thank thanks thanked danken dankt gedankt h dat / trust trusts trusted vertrauen vertraut vertraut h dat
listen_to listens_to listened_to zu|hören hört zugehört h dat
""",
    "": """
sleep sleeps slept schlafen schläft geschlafen h - / run runs run laufen läuft gelaufen s -
dance dances danced tanzen tanzt getanzt h - / laugh laughs laughed lachen lacht gelacht h -
cry cries cried weinen weint geweint h - / sing sings sung singen singt gesungen h -
swim swims swum schwimmen schwimmt geschwommen s - / wait waits waited warten wartet gewartet h -
work works worked arbeiten arbeitet gearbeitet h - / play plays played spielen spielt gespielt h -
sit sits sat sitzen sitzt gesessen h - / stand stands stood stehen steht gestanden h -
jump jumps jumped springen springt gesprungen s - / arrive arrives arrived an|kommen kommt angekommen s -
fall_down falls_down fallen_down hin|fallen fällt hingefallen s - / eat eats eaten essen isst gegessen h -
get_up gets_up got_up auf|stehen steht aufgestanden s - / drink drinks drunk trinken trinkt getrunken h -
fall_asleep falls_asleep fallen_asleep ein|schlafen schläft eingeschlafen s -
come_back comes_back come_back zurück|kommen kommt zurückgekommen s -
""",
}
# English singular and plural of a verb that takes a clause, German likewise.
CLAUSE_VERBS = """
knows know weiß wissen | says say sagt sagen | believes believe glaubt glauben | hopes hope hofft hoffen
"""
MODALS = "can kann können | must muss müssen | should soll sollen | may darf dürfen"
ADVERBS = "today heute | now jetzt | here hier | there dort | outside draußen | upstairs oben"
CONJUNCTIONS = "because weil | although obwohl | while während | if wenn | before bevor | until bis"


def table(text: str, separator: str = "|") -> list[list[str]]:
    """Splits a table into its entries, each a list of columns; a line's end separates entries too."""
    entries = (entry.split() for line in text.splitlines() for entry in line.split(f" {separator} "))
    return [entry for entry in entries if entry]
